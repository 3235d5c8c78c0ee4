"""Normalisation statistics for untrained checkpoints.

Mean and standard deviation are area-weighted over the globe. Sources:

- Levels 50 to 1000 hPa, surface and constants: NCEP GFS, run of 2011-10-08 00 UTC, valid 2011-10-11 00 UTC, on a
  2.5 degree grid (public domain). One day of one season: enough to give every variable and level its own scale,
  not a climate. Specific humidity is from GFS relative humidity; vertical velocity at 50 hPa half that of 100 hPa.
- 10 hPa: t and z of the US Standard Atmosphere 1976; the rest continued from 50 hPa.
- Precipitation 2.7 mm a day (Adler et al. 2003), surface radiation 185 and 342 W m-2 (Wild et al. 2013), cloud cover
  0.68 (Stubenrauch et al. 2013), runoff 78 mm a year over the globe (Trenberth et al. 2007): accumulated over 6 hours.
- Waves and snow: round figures of their usual size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

# Mean and standard deviation on pressure levels: q in kg kg-1, t in K, u and v in m s-1, w in Pa s-1, z in m2 s-2.
_COLUMNS = ("q", "t", "u", "v", "w", "z")
_TABLE = np.loadtxt(
    """\
# hPa    q mean    q dev   t mean    t dev   u mean    u dev   v mean    v dev   w mean    w dev   z mean    z dev
   10   2.8e-06    1e-06      228        9      8.3       20        0        7        0    0.006   303100     6000
   50  2.78e-06 1.15e-06    211.3      6.8      8.3     15.5     0.06      5.7   0.0001   0.0113   200786     4464
  100  3.63e-06  1.3e-06    204.5     10.3     12.3     12.9     0.02      6.6   0.0003   0.0226   159533     4549
  150  1.01e-05 4.49e-06    210.2      6.5     15.8     16.2     -0.1      9.8  -0.0001   0.0574   135501     4962
  200  3.42e-05 2.45e-05    217.7      5.2     15.9     17.9    -0.57     12.5  -0.0003   0.0964   117850     4944
  250     9e-05 8.41e-05    225.5      7.5     14.7     17.3    -0.28     12.8   0.0011    0.125   103669     4641
  300   0.00019 0.000201    233.7      9.3       13       16     0.02     12.1   0.0009    0.149    91658     4231
  400  0.000553 0.000628    247.9     10.4      9.8     13.3     0.05       10   0.0007    0.182    71772     3439
  500   0.00115  0.00126    258.7     10.4      7.3     11.1    -0.03      8.3   0.0015    0.192    55534     2797
  600     0.002  0.00198    267.1     10.5      5.3      9.8    -0.06      7.2   0.0019    0.197    41758     2278
  700   0.00316  0.00279    273.7     11.1      3.5        9    -0.08      6.4   0.0039    0.217    29773     1834
  850   0.00584  0.00385    281.5     11.8      1.3      8.2     0.15      5.9   0.0046    0.232    14256     1294
  925   0.00805  0.00476    284.5     12.1      0.4      8.1     0.39      6.3   0.0083     0.19     7363     1095
 1000   0.00955  0.00541    288.8     12.5     -0.3      6.3     0.37      5.3   0.0092    0.135      930      952
""".splitlines()
)
_HEIGHT = np.log(_TABLE[:, 0])

_SINGLE: dict[str, tuple[float, float]] = {
    "10u": (-0.3, 5.6),
    "10v": (0.36, 4.6),
    "2d": (282.8, 14.2),
    "2t": (287.9, 14.5),
    "msl": (101113.0, 1182.0),
    "skt": (288.4, 15.2),
    "sp": (98543.0, 6803.0),
    "tcw": (24.0, 16.1),
    "stl1": (289.1, 14.5),
    "stl2": (289.2, 14.4),
    "lsm": (0.29, 0.45),
    "z": (2250.0, 6113.0),
    "sdor": (39.6, 88.6),
    "slor": (0.0033, 0.008),
    "100u": (-0.3, 7.0),
    "100v": (0.4, 6.0),
    "tp": (6.8e-4, 2.0e-3),
    "cp": (3.4e-4, 1.2e-3),
    "sf": (5.0e-5, 4.0e-4),
    "ro": (5.3e-5, 4.0e-4),
    "ssrd": (4.0e6, 5.2e6),
    "strd": (7.4e6, 1.6e6),
    "tcc": (0.68, 0.38),
    "hcc": (0.4, 0.4),
    "mcc": (0.3, 0.37),
    "lcc": (0.37, 0.38),
    "sd": (0.02, 0.1),
    "swh": (2.5, 1.5),
    "mwp": (8.5, 2.3),
}

# The largest value of variables that are divided by it.
_LARGEST = {"sdor": 820.0, "slor": 0.104}


def mean_and_deviation(
    variable: str, levels: Sequence[int], given: Mapping[str, Sequence[float]] | None = None
) -> tuple[float, float]:
    """Return global mean and standard deviation of a variable, in its own unit.

    `given` (variable name to the two numbers) comes first. A name such as ``t_500`` whose number is one of `levels`
    is interpolated in the logarithm of pressure. A variable that is not known has mean 0 and deviation 1.
    """
    if given and variable in given:
        mean, deviation = given[variable]
        return float(mean), float(deviation)
    name, _, level = variable.rpartition("_")
    if name in _COLUMNS and level.isdigit() and int(level) in levels:
        column = 1 + 2 * _COLUMNS.index(name)
        mean, deviation = (np.interp(np.log(int(level)), _HEIGHT, _TABLE[:, c]) for c in (column, column + 1))
        return float(mean), float(deviation)
    return _SINGLE.get(variable, (0.0, 1.0))


def statistics_of(
    variables: Sequence[str], levels: Sequence[int], given: Mapping[str, Sequence[float]] | None = None
) -> dict[str, npt.NDArray[np.float64]]:
    """Return ``mean``, ``stdev``, ``minimum`` and ``maximum``, each ``(variable,)``, as anemoi-models reads them."""
    pairs = np.array([mean_and_deviation(variable, levels, given) for variable in variables])
    mean, stdev = pairs.T.copy()
    maximum = mean + 5 * stdev
    for index, variable in enumerate(variables):
        maximum[index] = _LARGEST.get(variable, maximum[index])
    return {"mean": mean, "stdev": stdev, "minimum": mean - 5 * stdev, "maximum": maximum}
