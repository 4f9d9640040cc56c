"""
Anomalies by name: xarray
=========================

Climate data have dimensions with names, coordinates, and gaps. Standardized anomalies, each station against its own
mean and deviation, are one call that keeps all of them.
"""

# %%
# Ten years of monthly temperatures, in kelvin, at six stations; one of them was out of order for a year.

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from normlib.interop.xarray import layer_norm

rng = np.random.default_rng(0)
months = np.arange("2014-01", "2024-01", dtype="datetime64[M]").astype("datetime64[ns]")
season = np.cos(2 * np.pi * np.arange(120) / 12)[:, np.newaxis]
values = rng.uniform(270, 300, 6) - rng.uniform(2, 15, 6) * season + rng.normal(size=(120, 6))
values[30:42, 2] = np.nan
temperature = xr.DataArray(
    values.astype(np.float32),
    dims=("time", "station"),
    coords={"time": months, "station": list("ABCDEF")},
    name="temperature",
    attrs={"units": "K"},
)

# %%
# The dimension to take statistics over goes by name; missing values stay missing and count for nothing.

anomalies = layer_norm(temperature, "time", eps=0)
print(anomalies.sel(station="C").isel(time=slice(28, 33)))

figure, panels = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
temperature.plot.line(x="time", ax=panels[0], linewidth=0.8, add_legend=False)
anomalies.plot.line(x="time", ax=panels[1], linewidth=0.8)
panels[0].set(title="temperature", ylabel="K")
panels[1].set(title="standardized", ylabel="deviations from the station's mean")
plt.show()

assert int(anomalies.isnull().sum()) == 12
