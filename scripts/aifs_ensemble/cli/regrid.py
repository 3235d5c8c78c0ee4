"""Put the fields of a GRIB file on a regular latitude-longitude grid, as NetCDF or GRIB2."""

from __future__ import annotations

import argparse
from pathlib import Path

from aifs_ensemble.cli._common import add_json_argument, check_output, print_json

GROUP = "after"
EXAMPLE = """\
aifs-ensemble regrid results/20250819_0000/forecasts/aifs_ens_forecast_20250819_0000_member001_h006.grib2
aifs-ensemble regrid lead.grib2 --grid 0.5x0.5 --area 20/15/-15/55 --variables 2t tp -o kenya.nc"""
HELP = "a GRIB file, of the globe or of an area, on a latitude-longitude grid"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("file", type=Path, metavar="FILE", help="GRIB file: a lead, a block, or several together")
    parser.add_argument("--grid", default="1x1", metavar="EASTxNORTH", help="degrees (default: 1x1)")
    parser.add_argument(
        "--area",
        metavar="N/W/S/E",
        help="part of the globe in degrees, such as 20/15/-15/55, or --area=-5/15/-25/40 with a minus first",
    )
    parser.add_argument("--variables", nargs="+", default=[], metavar="NAME", help="such as 2t tp t_500 (default: all)")
    parser.add_argument(
        "--method",
        default="linear",
        choices=("linear", "grid-box-average", "nearest-neighbour"),
        help="interpolation (default: linear); grid-box-average keeps amounts of rain",
    )
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="folder of interpolation weights (default: yours)")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="what to write: .nc or .grib2 (default: FILE's name with .nc)"
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Write the file and say where it is; ConfigError and InputError for arguments and files that do not do."""
    from aifs_ensemble.products.ensemble_reader import default_cache
    from aifs_ensemble.products.regrid import area_of, parse_area, regrid_file

    output = args.output or Path(args.file.with_suffix(".nc").name)
    check_output("-o", output, file=True)
    area = area_of(args.grid, parse_area(args.area)) if args.area else None
    cache = args.cache or default_cache()
    count = regrid_file(
        args.file, output, grid=args.grid, area=area, variables=args.variables, method=args.method, cache=cache
    )
    if args.json:
        print_json({"file": output, "fields": count, "grid": args.grid})
    else:
        print(f"{output}: {count} fields at {args.grid} degrees")
    return 0
