"""HDR (PQ, HLG) to SDR in linear light.

Display light in nits comes from the transfer functions of ITU-R BT.2100-2 (HLG through its OOTF for a 1000-nit
display). It is rolled off to 203 nits, the reference white of ITU-R BT.2408, by the EETF of ITU-R BT.2390-8
section 5.4, applied to the largest of R, G and B so that hues stay. Then the primaries are converted to BT.709 (what
lies outside is clipped) and the result is given the transfer of sRGB.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SDR_WHITE = 203.0
HLG_PEAK = 1000.0
DEFAULT_PQ_PEAK = 1000.0

_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
_HLG_A, _HLG_B, _HLG_C = 0.17883277, 0.28466892, 0.55991073
_LUMA_2020 = (0.2627, 0.6780, 0.0593)

# ITU-R BT.2087-0, annex 1: linear BT.2020 to linear BT.709.
_TO_709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], dtype=np.float32
)
_STEPS = 4096


def pq_to_nits(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """PQ signal 0..1 to display light in nits (BT.2100-2 table 4)."""
    p = np.power(np.clip(signal, 0, 1), 1 / _M2)
    return 10000 * np.power(np.maximum(p - _C1, 0) / (_C2 - _C3 * p), 1 / _M1)


def nits_to_pq(nits: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Display light in nits to PQ signal 0..1 (BT.2100-2 table 4)."""
    y = np.power(np.clip(np.asarray(nits, dtype=np.float64) / 10000, 0, 1), _M1)
    return np.power((_C1 + _C2 * y) / (1 + _C3 * y), _M2)


def hlg_to_scene(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """HLG signal 0..1 to scene light 0..1 (BT.2100-2 table 5, inverse OETF)."""
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - _HLG_C) / _HLG_A) + _HLG_B) / 12)


def roll_off(nits: NDArray[np.float64], peak: float) -> NDArray[np.float64]:
    """The EETF of BT.2390: nits up to `peak` to nits up to `SDR_WHITE`, black at 0. Identity if peak is no more."""
    if peak <= SDR_WHITE:
        return np.minimum(nits, SDR_WHITE)
    top = nits_to_pq(peak)
    signal = np.minimum(nits_to_pq(nits) / top, 1)
    limit = nits_to_pq(SDR_WHITE) / top
    knee = 1.5 * limit - 0.5
    t = np.maximum(signal - knee, 0) / (1 - knee)
    curve = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * limit
    return pq_to_nits(np.where(signal < knee, signal, curve) * top)


class ToneMapper:
    """uint16 PQ or HLG RGB in BT.2020 to uint8 sRGB.

    Args:
        hdr: `"pq"` or `"hlg"`.
        peak: brightest level of the content in nits (PQ; from the mastering metadata, 1000 where it is absent).
        wide: the primaries are BT.2020; otherwise they are taken as BT.709 already.
    """

    def __init__(self, hdr: str, peak: float | None = None, *, wide: bool = True) -> None:
        self.hdr, self._wide = hdr, wide
        self.peak = HLG_PEAK if hdr == "hlg" else float(peak or DEFAULT_PQ_PEAK)
        signal = np.arange(65536) / 65535
        linear = pq_to_nits(signal) if hdr == "pq" else hlg_to_scene(signal)
        self._linear = linear.astype(np.float32)
        # Gain over light, tabled on the fourth root of light: fine steps in the shadows. Black has the gain of
        # the straight part, 1.
        light = np.linspace(0, 1, _STEPS + 1) ** 4 * self.peak
        gain = np.ones_like(light)
        gain[1:] = roll_off(light[1:], self.peak) / light[1:]
        self._gain = (gain / SDR_WHITE).astype(np.float32)
        level = np.linspace(0, 1, 65536)
        srgb = np.where(level <= 0.0031308, 12.92 * level, 1.055 * np.power(level, 1 / 2.4) - 0.055)
        self._srgb = np.rint(srgb * 255).astype(np.uint8)

    def __call__(self, picture: NDArray[np.uint16]) -> NDArray[np.uint8]:
        light: Any = self._linear[picture]
        if self.hdr == "hlg":
            # OOTF: display = peak * Y^(gamma - 1) * scene, gamma 1.2 at 1000 nits (BT.2100-2 table 5, note 5e).
            luma = light @ np.array(_LUMA_2020, dtype=np.float32)
            light *= (HLG_PEAK * np.power(np.maximum(luma, 1e-9), 0.2))[..., None]
        brightest = light.max(axis=2)
        place = np.sqrt(np.sqrt(np.minimum(brightest / np.float32(self.peak), 1)))
        gain = self._gain[np.rint(place * _STEPS).astype(np.int32)]
        # Brighter than the stated peak (metadata can be wrong): white, not wrapped.
        gain = np.where(brightest > self.peak, 1 / np.maximum(brightest, 1e-9), gain)
        light *= gain[..., None]
        if self._wide:
            light = cv2.transform(light, _TO_709)
        levels = np.rint(np.clip(light, 0, 1) * 65535).astype(np.uint16)
        return self._srgb[levels]
