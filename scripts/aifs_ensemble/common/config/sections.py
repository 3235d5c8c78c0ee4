"""The keys of the configuration, a class a section: type, bounds, default, and below each what it means.

config/config.schema.json and the tables of config/README.md are written from these classes by the module ``schema``.
YAML and Snakemake's command line change values: texts become numbers, numbers texts. The types here undo that, and
take nothing else than what they name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WrapValidator
from pydantic_core import PydanticCustomError

from aifs_ensemble.common import locations
from aifs_ensemble.common.errors import ConfigError

# a block at the destination is put together from at most 32 objects in one call, six hours each
MOST_BLOCK_HOURS = 32 * 6
T = TypeVar("T")


def _number(value: Any) -> Any:
    """Return the number that a text such as ``12`` stands for, and anything else as it is."""
    if isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?", value):
        return float(value) if "." in value else int(value)
    return value


def _whole(value: Any) -> Any:
    """Return 48 for 48.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _as_given(value: Any, check: Any) -> Any:
    """Check a number, and leave 900 what it is: as a float it would be shown as 900.0."""
    number = _number(value)
    check(number)
    return number


def _truth(value: Any) -> Any:
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


def _cycle(value: Any) -> Any:
    """Return the cycle of 20250819_0000 without quotes, which YAML reads as a number with a separator."""
    text = str(value)
    return f"{text[:8]}_{text[8:]}" if re.fullmatch(r"\d{12}", text) else value


def _models(value: Any) -> Any:
    """Return the one model of a list of one, and a list of models with commas, which a shell takes without quotes."""
    if isinstance(value, str) and "," in value:
        value = [item.strip() for item in value.split(",")]
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _different(items: Sequence[T]) -> Sequence[T]:
    if len(set(items)) < len(items):
        raise PydanticCustomError("twice", "an item named twice")
    return items


def _different_or_all(items: Any) -> Any:
    return items if isinstance(items, str) else _different(items)


Whole = Annotated[int, BeforeValidator(lambda value: _whole(_number(value)))]
Count = Annotated[int, Field(ge=1), BeforeValidator(lambda value: _whole(_number(value)))]
NotNegative = Annotated[int, Field(ge=0), BeforeValidator(lambda value: _whole(_number(value)))]
Bits = Annotated[int, Field(ge=8, le=24), BeforeValidator(lambda value: _whole(_number(value)))]
# of a union pydantic's own serializer takes 900 for no number, and warns
_shown = PlainSerializer(lambda value: value)
Number = Annotated[float, WrapValidator(_as_given), _shown]
Positive = Annotated[float, Field(gt=0), WrapValidator(_as_given), _shown]
Share = Annotated[float, Field(ge=0, le=1), WrapValidator(_as_given), _shown]
Flag = Annotated[bool, BeforeValidator(_truth)]
Nullable = Annotated[T | None, BeforeValidator(lambda value: None if value == "null" else value)]


class Section(BaseModel):
    """Keys that stand together; read-only, and none but these."""

    # built with the whole configuration, not each by itself: a dry-run waits for it
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


class EcmwfOpenData(Section):
    """Downloads from ECMWF's open data."""

    sources: list[str] = Field(default=["google", "aws", "azure", "ecmwf"], min_length=1)
    """Sources in order of preference: names known to ecmwf-opendata, or base URLs."""
    resolution: Literal["0p25", "0p4-beta"] = "0p25"
    """Resolution folder of the service."""
    attempts: Whole = Field(default=3, ge=1)
    """Tries per source before the next source."""
    deadline_seconds: Number = Field(default=1800, gt=0)
    """Time for all downloads of one member."""
    stall_seconds: Number = Field(default=30, gt=0)
    """A transfer with no new byte for so long is abandoned and tried again."""


class FileSettings(Section):
    """A GRIB file of the user's."""

    path: Annotated[str | list[str], AfterValidator(locations.input_files("initial_conditions.file.path"))] = ""
    """GRIB file or files with both times; {member}, {member:03d} and {cycle} are filled in. Needed with source:
    file."""
    control: Annotated[
        Nullable[str | list[str]], AfterValidator(locations.input_files("initial_conditions.file.control"))
    ] = None
    """GRIB file or files of the control, member 0. null: as the path says, with member 0 filled in."""


class Idealised(Section):
    """Idealised initial states."""

    seed: Whole = Field(default=0, ge=0)
    """Seed of the members' perturbations."""
    amplitude: Number = Field(default=1.0, ge=0)
    """Factor on the members' perturbations."""


class InitialConditions(Section):
    """Where initial states come from."""

    source: Literal["idealised", "ecmwf-open-data", "file"]
    """Where initial conditions come from; idealised needs no network."""
    derive: Annotated[list[Literal["sp", "2d", "z"]], AfterValidator(_different)] = Field(
        default=[], json_schema_extra={"uniqueItems": True}
    )
    """Fields that may be derived by a documented formula when the source lacks them. Nothing else is ever filled."""
    members_per_state: Whole = Field(default=1, ge=1)
    """Members that share a state of the source, with other noise: with 2 of ensemble_size 100, member 51 starts as 1
    does."""
    checks: Literal["error", "warn"] = "error"
    """What an implausible input does: stop the member, or warn and record it."""
    wait_hours: Number = Field(default=0, ge=0, le=72)
    """How long a run waits for the inputs of its cycle to appear, before anything is rented. 0: it is refused without
    them."""
    cache: Annotated[Nullable[str], AfterValidator(locations.place("initial_conditions.cache"))] = None
    """Folder for downloaded ranges, constants and interpolation weights. null: {scratch}/cache."""
    ecmwf_open_data: EcmwfOpenData = Field(default={}, validate_default=True)
    file: FileSettings = Field(default={}, validate_default=True)
    idealised: Idealised = Field(default={}, validate_default=True)


class Output(Section):
    """What is delivered of what the model makes."""

    variables: Annotated[str | list[str], AfterValidator(_different_or_all)] = Field(
        default="all", json_schema_extra={"uniqueItems": True}
    )
    """Parameters (t) or variables (t_500) of the model in the leads, or all."""
    levels: Annotated[list[Whole], AfterValidator(_different)] = Field(
        default=[], json_schema_extra={"uniqueItems": True}
    )
    """Pressure levels in hPa of what variables does not name with its level. []: all."""
    leads: Annotated[list[Whole], AfterValidator(_different)] = Field(
        default=[], json_schema_extra={"uniqueItems": True}
    )
    """Lead times in hours that are delivered. []: those that every_hours says."""
    every_hours: Nullable[Count] = None
    """Hours from one lead to the next, if leads names none. null: every step of the model."""
    daily: dict[str, Annotated[list[Literal["mean", "max", "min", "sum"]], AfterValidator(_different)]] = {}
    """Statistics over the days since the start, by parameter or variable: {2t: [mean, max, min]}; of amounts the sum.
    The lead that ends a day (24, 48 h ...) holds them, a GRIB message each, made of the model's steps in that day: 6,
    12, 18 and 24 h, not its first hour. variables: [] and every_hours: 24 keep them alone."""
    area: Nullable[str | list[Number]] = None
    """Part of the globe that the leads hold: [north, west, south, east] in degrees, or the name of an area of
    products.pictures.areas, such as east-africa. null: all of it. Coarse leads hold the globe."""


class Forecast(Section):
    """How a member is computed and encoded."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda where a GPU is visible, else cpu."""
    precision: Annotated[
        Literal["16", "bf16", "fp8", "32"], BeforeValidator(lambda v: str(v) if type(v) is int else v)
    ] = "32"
    """Autocast precision of the forward pass. fp8: its products in float8, the rest as with 16. Only on a GPU that has
    it (Hopper, Ada or later), in the accelerated pass, and refused elsewhere. What it does to a trained model cannot be
    known here: untrained, it moves the mean of an ensemble. Compare one with an ensemble of 16 before any use."""
    compile: Flag = False
    """Compile the model's parts with torch.compile; costs time at the start of the first member on a machine."""
    deterministic: Flag = True
    """Reruns and resumes give the same bits on the same GPU model."""
    chunks: Whole = Field(default=1, ge=1)
    """Chunks of the mapper computation in encoder and decoder of the model: more chunks, less GPU memory, slower."""
    accelerate: Flag = True
    """With compile on a GPU, in 16, bf16 or fp8: take the accelerated forward pass where it knows the model and
    computes the same. false: the model's own pass, slower and larger."""
    cuda_graph: Flag = False
    """With compile on a GPU: record the compiled forward pass as a CUDA graph and start it with one call a step, which
    spares the host most of its work. On an H100: 2 GB less a member, 1 % faster, the same bytes."""
    encoders: Whole = Field(default=2, ge=1, le=64)
    """GRIB encoder processes of a member, also the threads that Snakemake counts for it: processors divided by encoders
    is the most that run at once."""
    accumulate: Literal["from_start", "per_step"] = "from_start"
    """Accumulated fields, such as precipitation, since the start of the forecast, as ECMWF does, or over each step."""
    output: Output = Field(default={}, validate_default=True)
    packing: dict[str, Bits] = {}
    """Bits per value by parameter (t) or variable (t_500), over the table of parameters."""
    restart_hours: Whole = Field(default=72, ge=6, multiple_of=6)
    """Lead time between restart states: what a killed member loses at most."""
    restarts_kept: Whole = Field(default=2, ge=1)
    """Restart states kept per member while it runs."""
    gpu_mem_mb: Whole = Field(default=0, ge=0)
    """GPU memory of one member, which decides how many share a card. 0: none needed (CPU)."""
    compute_at_once: Nullable[Count] = None
    """Of the members that share a card, how many make steps at once; the others start up, wait ready or write what they
    made. null: one on a GPU, any number on a processor."""
    progress: Flag = True
    """Write a line per lead, with time to go, to the log."""


class Delivery(Section):
    """How leads reach the destination."""

    streaming: Flag = False
    """The forecast job delivers each lead while the next computes. Needed by the cloud profiles."""
    layout: Literal["leads", "blocks", "both"] = "leads"
    """One file per lead, blocks of block_hours, or both."""
    block_hours: Whole = Field(default=72, ge=6, le=MOST_BLOCK_HOURS, multiple_of=6)
    """Length of a block."""
    threads: Whole = Field(default=8, ge=1, le=64)
    """Parallel transfers."""
    resumable_above_mb: Number = Field(default=8, gt=0, le=64)
    """Size above which an upload is chunked and resumable; smaller files are held in memory whole."""
    deadline_seconds: Number = Field(default=900, gt=0)
    """Time within which one file's delivery must succeed, retries included."""
    scratch_budget_mb: Nullable[Positive] = None
    """Room the run may take on scratch, MB of 1e6 bytes. null: what is free, less a reserve."""
    mirror_restarts: Flag = False
    """Keep restart states at the destination too (preemptible machines). Set it with cloud.spot."""
    share_compiled: Flag = True
    """Take compiled parts of the model from the destination and leave them there. They are code: with false each
    machine compiles its own, and nobody who can write to the destination brings code to it that way."""
    allow_cross_region: Flag = False
    """Run although bucket, images and machines are in different regions; traffic between them is billed."""


class Cloud(Section):
    """Rented machines."""

    project: Nullable[str] = None
    """Google Cloud project."""
    regions: list[str] = Field(default=["us-central1"], min_length=1)
    """Compute regions in order of preference; the next is tried when one has no machine."""
    gpu: str = "a2-ultragpu-1g"
    """Machine type of GPU rules, an entry of config/machines.yaml."""
    cpu: str = "n2-standard-2"
    """Machine type of CPU rules, an entry of config/machines.yaml."""
    vms: Whole = Field(default=8, ge=1)
    """GPU machines at once, as the plan counts them; members are spread over them in groups. Keep it equal to jobs of
    the profile."""
    prices: Annotated[Nullable[str], AfterValidator(locations.place("cloud.prices"))] = None
    """YAML file whose prices stand over those of config/machines.yaml (the form of its key prices)."""
    bucket_region: Nullable[str] = None
    """Region of the bucket: for plans, which do not ask it, and where it does not answer during a run."""
    spot: Flag = False
    """Rent preemptible machines first."""
    spot_attempts: Whole = Field(default=2, ge=0)
    """Attempts of a job on preemptible machines before it runs on demand; on Google Batch all attempts are
    preemptible."""
    workspace: Nullable[str] = None
    """Coiled workspace. null: your default one."""
    gpu_image: Nullable[str] = None
    """Container image or Coiled software environment of GPU rules."""
    cpu_image: Nullable[str] = None
    """Container image or Coiled software environment of CPU rules."""
    service_account: Nullable[str] = None
    """Identity of the machines (Google Batch; on Coiled it is set up with the workspace)."""
    network: Nullable[str] = None
    """VPC network of the machines (Google Batch)."""
    subnetwork: Nullable[str] = None
    """Subnetwork of the machines (Google Batch)."""
    secrets: list[Annotated[str, Field(pattern="^[A-Za-z_][A-Za-z0-9_]*$")]] = []
    """Names of environment variables, such as HF_TOKEN, that Coiled's machines get with the coordinator's values. To
    Google Batch none are sent, see docs/cloud.md."""
    max_hours: Number = Field(default=6, gt=0)
    """Lifetime after which a machine stops whatever happens."""
    idle_minutes: Number = Field(default=10, gt=0)
    """Wait for a machine in a region before the next one is tried; and the gap after which an account counts a new
    stay."""
    wait_hours: Number = Field(default=6, ge=0)
    """How long a job on Coiled asks again, every two minutes, for a machine that no region has; on preemptible machines
    idle_minutes instead. 0: it fails at once."""
    labels: dict[str, str] = {}
    """Labels on every machine, for the bill."""


Interpolation = Literal["linear", "grid-box-average", "nearest-neighbour"]
RegularGrid = Annotated[str, Field(pattern=r"^\d+(\.\d+)?x\d+(\.\d+)?$")]


class Coarse(Section):
    """A second, small file of each lead on a regular grid, made by the forecast's encoders before they pack."""

    enabled: Flag = False
    """Make them: {cycle}/coarse/..._memberNNN_hLLL_1p5deg.grib2, for members that are computed from now on. Products
    read them where they suit, else the leads."""
    grid: Nullable[RegularGrid] = None
    """Degrees east-west and north-south, 0.25 or more. null: products.grid."""
    variables: Annotated[str | list[str], AfterValidator(_different_or_all)] = Field(
        default="all", json_schema_extra={"uniqueItems": True}
    )
    """Variables of the model in them, or all."""
    method: dict[str, Interpolation] = {}
    """Interpolation by variable; default stands for all that are not named. Without default, they are interpolated as
    products.interpolation says."""


class MemberFiles(Section):
    """One NetCDF file a member on a regular grid."""

    enabled: Flag = False
    """Make them: {cycle}/1p5deg_nc/aifs_ensemble_forecast_1p5deg_memberNNN.nc."""
    variables: Annotated[list[str], AfterValidator(_different)] = Field(
        default=["2t", "msl", "tp"], min_length=1, json_schema_extra={"uniqueItems": True}
    )
    """Variables of the model in them."""


class PeriodVariable(Section):
    """A variable over a period."""

    variable: str
    """Variable of the model."""
    statistic: Literal["mean", "sum"]
    """The mean of the 6-hourly values from the start of the period until before its end, or, of an accumulated
    variable, the amount in the period."""


class Weekly(Section):
    """Means and sums over weeks, or other periods, and probabilities of the classes of a climatology."""

    enabled: Flag = False
    """Make them, for each member and for the ensemble."""
    hours: Whole = Field(default=168, ge=6, multiple_of=6)
    """Length of a period."""
    periods: Annotated[list[Whole], AfterValidator(_different)] = Field(
        default=[432, 600], min_length=1, json_schema_extra={"uniqueItems": True}
    )
    """First hour of each period; they are called p1, p2 ... The default is that of AI Weather Quest: days 18 to 25 and
    25 to 32. A period that ends after lead_hours is not made."""
    variables: dict[Annotated[str, Field(pattern="^[A-Za-z0-9_]+$")], PeriodVariable] = Field(
        default={
            "tas": {"variable": "2t", "statistic": "mean"},
            "mslp": {"variable": "msl", "statistic": "mean"},
            "pr": {"variable": "tp", "statistic": "sum"},
        },
        min_length=1,
        validate_default=True,
    )
    """What is averaged or summed, by its name in the files. The default is that of AI Weather Quest."""
    climatology: Annotated[Nullable[str], AfterValidator(locations.place("products.weekly.climatology"))] = None
    """Folder of climatological quantiles, a NetCDF file for each variable and period:
    {name}_20yrCLIM_WEEKLY{MEAN|SUM}_quintiles_{first day, YYYYMMDD}.nc. null: no probabilities."""
    model_climatology: Annotated[
        Nullable[str], AfterValidator(locations.place("products.weekly.model_climatology"))
    ] = None
    """Folder of quantiles of the model's own climate, which `aifs-ensemble climatology` writes:
    {name}_modelCLIM_WEEKLY{MEAN|SUM}_quintiles_h{first hour}_w{week of the year}.nc. null: no probabilities of its
    classes."""
    team: Annotated[str, Field(pattern="^[A-Za-z0-9-]*$")] = ""
    """Team name in AI Weather Quest. With submission_model it makes the files of a submission."""
    submission_model: Annotated[str, Field(pattern="^[A-Za-z0-9-]*$")] = ""
    """Name of the model in AI Weather Quest."""

    @property
    def named_periods(self) -> dict[str, int]:
        """First hour of each period by its name: ``p1``, ``p2`` ..."""
        return {f"p{number}": start for number, start in enumerate(self.periods, 1)}


class Statistics(Section):
    """Mean, spread, probabilities and quantiles over the members, lead by lead."""

    enabled: Flag = False
    """Make them, as GRIB2 and NetCDF: {cycle}/products/ensemble/."""
    variables: Annotated[list[str], AfterValidator(_different)] = Field(
        default=["2t", "2d", "msl", "10si", "ws_850", "t_850", "z_500", "tp"],
        min_length=1,
        json_schema_extra={"uniqueItems": True},
    )
    """Variables of the model, and wind speed of its components: 10si and 100si at 10 and 100 m, ws_850 on 850 hPa."""
    windows: Annotated[list[Whole], AfterValidator(_different)] = Field(
        default=[6, 24, 72, 168], min_length=1, json_schema_extra={"uniqueItems": True}
    )
    """Hours over which amounts, such as tp, are taken. A window ends at every multiple of its length, and a window of
    more than a day at every 24 h."""
    at_least: dict[str, Annotated[list[Number], AfterValidator(_different)]] = {
        "tp": [1, 5, 10, 20, 50, 100],
        "10si": [10, 15],
    }
    """Thresholds by variable, in units of GRIB: probability that a value is at or above each. Amounts: in a window."""
    below: dict[str, Annotated[list[Number], AfterValidator(_different)]] = {"2t": [273.15]}
    """Thresholds by variable, in units of GRIB: probability that a value is below each."""
    quantiles: Annotated[list[Share], AfterValidator(_different)] = Field(
        default=[0.1, 0.25, 0.5, 0.75, 0.9], json_schema_extra={"uniqueItems": True}
    )
    """Quantiles over the members, as shares of them, in the NetCDF files."""
    hours_a_job: Whole = Field(default=24, ge=24, multiple_of=24)
    """Hours of leads that one job makes, and that one NetCDF file holds."""


class Cube(Section):
    """The whole ensemble as one data set, for xarray and Zarr."""

    enabled: Flag = False
    """Make {cycle}/products/ensemble.icechunk: all members, leads and fields, by reference to the leads' bytes."""
    regular: Annotated[list[str], AfterValidator(_different)] = Field(
        default=["2t", "msl", "tp"], json_schema_extra={"uniqueItems": True}
    )
    """Variables of the model that {cycle}/products/ensemble.zarr holds, on the products' grid. None: it is not made."""


class Evaluation(Section):
    """Scores of the forecast against analyses, once these exist."""

    enabled: Flag = False
    """Make them with the products, by runs that begin after the first valid time that is scored. `aifs-ensemble
    evaluate` and the target evaluation make them without it."""
    variables: Annotated[list[str], AfterValidator(_different)] = Field(
        default=["2t", "msl", "z_500", "t_850"], min_length=1, json_schema_extra={"uniqueItems": True}
    )
    """Variables of the model that are scored. Amounts are not: analyses hold none."""
    every_hours: Whole = Field(default=24, ge=6, multiple_of=6)
    """Hours between the leads that are scored."""
    areas: dict[
        Annotated[str, Field(pattern="^[a-z0-9-]+$")], Annotated[list[Number], Field(min_length=4, max_length=4)]
    ] = Field(
        default={
            "globe": [90, 0, -90, 360],
            "northern": [90, 0, 20, 360],
            "tropics": [20, 0, -20, 360],
            "southern": [-20, 0, -90, 360],
            "east-africa": [19, 21, -12, 53],
        },
        min_length=1,
    )
    """Areas by name: north, west, south, east in degrees. West may be above east, across 0 E. Figures show the
    first."""
    source: Literal["ecmwf-open-data", "file"] = "ecmwf-open-data"
    """Where analyses come from: step 0 of ECMWF's open data, with the settings of
    initial_conditions.ecmwf_open_data, or GRIB files of yours."""
    path: Annotated[Nullable[str], AfterValidator(locations.place("products.evaluation.path"))] = None
    """GRIB file or files of analyses, of any global grid; {valid:%Y%m%d_%H} and {cycle} are filled in. Needed with
    source: file."""
    climatology: Annotated[Nullable[str], AfterValidator(locations.place("products.evaluation.climatology"))] = None
    """NetCDF file or files with the model's variables on products.grid, in units as delivered: a mean, or a field for
    each year; {valid:%m%d_%H} is filled in. null: no climatology beside the scores."""
    observations: Annotated[Nullable[str], AfterValidator(locations.place("products.evaluation.observations"))] = None
    """Folder of observed weeks, {name}_obs_WEEKLY{MEAN|SUM}_{first day}.nc as AI Weather Quest names them. null: means
    of analyses; amounts have no score."""


class Pictures(Section):
    """Maps of the ensemble, and meteograms of places."""

    enabled: Flag = False
    """Draw them: {cycle}/products/maps and {cycle}/products/meteograms."""
    variables: Annotated[list[str], AfterValidator(_different)] = Field(
        default=["2t", "msl", "tp", "10si"], min_length=1, json_schema_extra={"uniqueItems": True}
    )
    """Variables of the maps: those of the model, and 10si or 100si for the speed of the wind. The periods of
    products.weekly have maps besides."""
    step_hours: Whole = Field(default=24, ge=6, multiple_of=6)
    """Hours from one map to the next."""
    amount_hours: Whole = Field(default=24, ge=6, multiple_of=6)
    """Precipitation and other amounts are those of so many hours before the time of the map."""
    areas: Annotated[list[str], AfterValidator(_different)] = Field(
        default=["globe", "east-africa"], min_length=1, json_schema_extra={"uniqueItems": True}
    )
    """Areas of the maps: globe, east-africa, africa, europe, south-asia, or one of own_areas."""
    own_areas: dict[
        Annotated[str, Field(pattern="^[a-z0-9-]+$")], Annotated[list[Number], Field(min_length=4, max_length=4)]
    ] = {}
    """Areas of your own by name: [north, west, south, east] in degrees."""
    places: dict[str, Annotated[list[Number], Field(min_length=2, max_length=2)]] = {
        "Nairobi": [-1.29, 36.82],
        "Addis Ababa": [9.03, 38.74],
    }
    """Places of meteograms by name: [latitude, longitude] in degrees. {}: no meteograms."""


class Page(Section):
    """A page to look at what a cycle has."""

    enabled: Flag = False
    """Make it: {cycle}/index.html."""


class Compare(Section):
    """Two models side by side, where `model` names two."""

    enabled: Flag = True
    """Compare them: {destination}/compare/{cycle}, with data, maps, scores and a page."""
    variables: Annotated[list[str], AfterValidator(_different)] = Field(
        default=[], json_schema_extra={"uniqueItems": True}
    )
    """Variables of both models' leads whose means and spreads are compared. []: those of the coarse leads, or without
    any those of the pictures, as far as both models' leads hold them."""
    every_hours: Whole = Field(default=6, ge=6, multiple_of=6)
    """Hours from one lead that is compared to the next."""


class Products(Section):
    """What is made from delivered leads. Another choice here never computes a member again."""

    grid: RegularGrid = "1.5x1.5"
    """Regular grid of the products, degrees east-west and north-south."""
    interpolation: dict[str, Interpolation] = {}
    """Interpolation by variable. Default linear, as ECMWF's archive does; grid-box-average keeps the amount of rain."""
    coarse: Coarse = Field(default={}, validate_default=True)
    members: MemberFiles = Field(default={}, validate_default=True)
    weekly: Weekly = Field(default={}, validate_default=True)
    statistics: Statistics = Field(default={}, validate_default=True)
    cube: Cube = Field(default={}, validate_default=True)
    evaluation: Evaluation = Field(default={}, validate_default=True)
    pictures: Pictures = Field(default={}, validate_default=True)
    page: Page = Field(default={}, validate_default=True)
    compare: Compare = Field(default={}, validate_default=True)


class Report(Section):
    """The report of a run."""

    field: str = "t_500"
    """Variable shown for each member in the report: a name of the model such as t_500, 2t, msl."""


Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]


class KeepRule(Section):
    """What goes of old cycles at the destination."""

    what: Annotated[list[Literal["leads", "coarse", "restarts", "initial", "products"]], AfterValidator(_different)] = (
        Field(min_length=1, json_schema_extra={"uniqueItems": True})
    )
    """What the rule is of: leads, coarse leads, restart states, initial states, products."""
    days: Whole = Field(ge=1)
    """It goes of a cycle that is older than so many days, and whose ensemble was finished so long ago."""
    except_weekdays: Annotated[list[Weekday], AfterValidator(_different)] = Field(
        default=[], json_schema_extra={"uniqueItems": True}
    )
    """Cycles that begin on these days of the week are none of the rule's."""


class Notify(Section):
    """Whom a run tells at its end that its ensemble is complete, short or failed."""

    command: str = ""
    """A command, its words as a shell splits them; it gets JSON on standard input (docs/scheduling.md)."""
    url: Nullable[str] = None
    """An address, http or https, that gets the same JSON by POST. $NAME in it is filled in from the environment of the
    coordinator alone. Nothing behind the host is ever shown."""


class OfModel(Section):
    """What is of one model in a run of several, in place of the key of the same name elsewhere."""

    checkpoint: Nullable[str] = None
    """In place of `checkpoint`: that of this model."""
    trust_checkpoint: Nullable[Flag] = None
    """In place of `trust_checkpoint`. null: as it says."""
    gpu_mem_mb: Nullable[NotNegative] = None
    """In place of `forecast.gpu_mem_mb`. null: as it says."""
    gpu_image: Nullable[str] = None
    """In place of `cloud.gpu_image`: models of other packages have other images. null: as it says."""
    path: Nullable[str | list[str]] = None
    """In place of `initial_conditions.file.path`. null: as it says."""


def _own_places(by_model: dict[str, OfModel]) -> dict[str, OfModel]:
    """Return what is of each model with its files' places expanded; ConfigError, naming the model, for what is none."""
    found = {}
    for name, own in by_model.items():
        key = f"by_model.{name}"
        checkpoint = locations.checkpoint(own.checkpoint, f"{key}.checkpoint")
        path = locations.input_files(f"{key}.path")(own.path)
        if path is not None and not path:
            raise ConfigError(f"config: {key}.path: {path!r}, expected a GRIB file or several, or null")
        found[name] = own.model_copy(update={"checkpoint": checkpoint, "path": path})
    return found


class Values(Section):
    """The whole configuration as a user gives it: keys of no section, and the sections."""

    model: Annotated[str | list[str], BeforeValidator(_models), AfterValidator(_different_or_all)] = Field(
        json_schema_extra={"uniqueItems": True}
    )
    """Entry of config/models.yaml: aifs-ens-1.0, aifs-ens-2.0, or the untrained demo, demo-v2, aifs-ens-size and
    aifs-ens-2-size. Or a list of two, [demo, demo-v2]: each is made in a folder of its own, {destination}/{model}, and
    they are compared."""
    by_model: Annotated[dict[str, OfModel], AfterValidator(_own_places)] = {}
    """What differs between the models of a list, by model: checkpoint, trust_checkpoint, gpu_mem_mb, gpu_image, and
    path of the initial states' file."""
    checkpoint: Annotated[Nullable[str], AfterValidator(locations.checkpoint)] = None
    """Path or gs:// URL of the checkpoint file (with rented machines the latter). null: built (untrained models) or
    fetched as the catalogue says."""
    trust_checkpoint: Flag = False
    """Load a checkpoint whose digest is not in the model catalogue. Unpickling runs code: only for files you trust."""
    cycle: Annotated[Nullable[str], BeforeValidator(_cycle)] = None
    """Initial time, "YYYYMMDD_HHMM" in quotes, UTC; the hour is 00, 06, 12 or 18. Or a word: latest, the newest cycle
    whose inputs are all there; latest-thursday and latest-12z, the newest of them; with -1d, -6h or -1w, as much before
    it. A run and all its jobs have the cycle that is found when it starts."""
    cycles: Annotated[Nullable[str | list[Any]], BeforeValidator(_cycle)] = None
    """Several cycles in one run, in place of `cycle`: a list, a range "20250101_0000..20251225_0000 every 7d" (or
    12h), or a file with one of these a line. An item, and either end of a range, may be a word as in `cycle`. Of the
    two keys the one that is given later counts: files in their order, then the command line."""
    members: Annotated[str | int | list[Any], BeforeValidator(_whole)]
    """Members to run: 1-50, or 1,5,10-12, or a list. Member 0 is the control, from the unperturbed analysis: 0-50 runs
    it too."""
    ensemble_size: Whole = Field(default=50, ge=1, le=254)
    """Perturbed members of the ensemble, however many a run makes; no member may be above it. GRIB's
    numberOfForecastsInEnsemble, an octet, is one more, as ECMWF's: it counts the control, made or not."""
    min_members: Nullable[Count] = None
    """Members, the control counted as one, with which a short ensemble still counts (_SUCCESS) and has products,
    which say that it is short; snakemake ends with 1 all the same, because members failed. null: all of them."""
    lead_hours: Whole = Field(ge=6, le=960, multiple_of=6)
    """Last lead time in hours; every 6-hour step up to it is delivered."""
    scratch: Annotated[str, AfterValidator(locations.place("scratch"))]
    """Folder on a large local disk (or in memory) where everything is made first, and checked."""
    destination: Annotated[Nullable[str], AfterValidator(locations.destination)] = None
    """Folder or gs://bucket[/prefix] that receives the ensemble. null only plans, a run is refused."""
    keep_scratch: Flag = True
    """Keep local copies of leads after their delivery was verified."""
    declare_leads: Flag = True
    """Declare every lead's GRIB as an output, so that snakemake misses one that is lost and makes one by its name, or
    only the member's manifest."""
    initial_conditions: InitialConditions
    forecast: Forecast = Field(default={}, validate_default=True)
    delivery: Delivery = Field(default={}, validate_default=True)
    keep: dict[Annotated[str, Field(pattern="^[a-z0-9-]+$")], KeepRule] = {}
    """Rules by name of what goes of old cycles. `aifs-ensemble gc --plan` shows it, `gc --plan --delete` removes it; no
    run does. {}: everything stays."""
    cloud: Cloud = Field(default={}, validate_default=True)
    products: Products = Field(default={}, validate_default=True)
    report: Report = Field(default={}, validate_default=True)
    notify: Notify = Field(default={}, validate_default=True)
