"""
Anomalies by name: xarray
=========================

Climate data have dimensions with names, coordinates, and gaps. A standardized anomaly says how far a month is from the
usual one, in deviations of that month and station: one call, which keeps all labels.
"""

# %%
# Thirty simulated years of monthly temperatures at four stations, in kelvin. One summer was hot, and one station was
# out of order for a year.

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from normlib.interop.xarray import layer_norm

rng = np.random.default_rng(0)
season = -np.cos(2 * np.pi * np.arange(12) / 12)[:, np.newaxis]
values = 285 + rng.uniform(5, 12, 4) * season + rng.normal(0, 1, (30, 12, 4))
values[13, 5:8] += 3.5
values[20, :, 2] = np.nan
temperature = xr.DataArray(
    values.astype(np.float32),
    dims=("year", "month", "station"),
    coords={"year": np.arange(1990, 2020), "month": np.arange(1, 13), "station": list("ABCD")},
    name="temperature",
    attrs={"units": "K"},
)

# %%
# The dimension that statistics are taken over goes by name. ``where=`` says what counts; what does not is missing in
# the result too.

anomaly = layer_norm(temperature, "year", eps=0, where=temperature.notnull())
print(anomaly.sel(year=2003, month=[6, 7, 8]))

figure, panels = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
shown = {"station C, in kelvin": (temperature, "viridis"), "station C, standardized": (anomaly, "RdBu_r")}
for panel, (title, (array, colors)) in zip(panels, shown.items(), strict=True):
    array.sel(station="C").plot.imshow(x="year", y="month", ax=panel, cmap=colors, cbar_kwargs={"label": ""})
    panel.set(title=title, yticks=range(1, 13, 2))
plt.show()

assert int(anomaly.isnull().sum()) == 12
