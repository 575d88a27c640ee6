"""Cells of the visual cortex: Gabor's function, its response to gratings in closed form, and the energy model.

Positions are ``x`` to the right and ``y`` upwards, in pixels; angles and phases are in degrees. Stripes of orientation
θ run along (cos θ, sin θ): 0° is horizontal, 90° vertical, 45° rises to the right. Across the stripes u = −x sin θ + y
cos θ, along them v = x cos θ + y sin θ. D. H. Hubel, T. N. Wiesel (1959, 1962) found the cells; S. Marčelja, J. Opt.
Soc. Am. 70 (1980) and J. G. Daugman, J. Opt. Soc. Am. A 2 (1985) gave simple cells this formula; E. H. Adelson, J. R.
Bergen, ibid. (1985) complex cells theirs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Gabor:
    """A simple cell's receptive field.

    Args:
        orientation: θ of the stripes that it prefers, degrees.
        wavelength: λ, pixels from one stripe to the next.
        phase: φ, degrees; 0 has a bright stripe in its middle, 90 an edge.
        aspect: γ, the envelope's width across the stripes over its length along them; 1 is round.
        bandwidth: octaves of spatial frequency at half height; it sets σ.
    """

    orientation: float = 0.0
    wavelength: float = 6.0
    phase: float = 0.0
    aspect: float = 0.7
    bandwidth: float = 1.0

    @property
    def sigma(self) -> float:
        """The envelope's standard deviation across the stripes: σ = λ/π · √(ln 2 / 2) · (2ᵇ + 1)/(2ᵇ − 1), in
        pixels."""
        ratio = math.pow(2, self.bandwidth)
        return self.wavelength / math.pi * math.sqrt(math.log(2) / 2) * (ratio + 1) / (ratio - 1)

    @property
    def dc_offset(self) -> float:
        """The share e^{−½(2πσ/λ)²} of the envelope that is taken off, so that uniform light excites no cell."""
        return math.exp(-0.5 * (2 * math.pi * self.sigma / self.wavelength) ** 2)


def stripe_distance(x: Tensor, y: Tensor, orientation: float) -> Tensor:
    """Return u = −x sin θ + y cos θ, the distance across stripes of an orientation, in the shape of x and y."""
    angle = math.radians(orientation)
    return y * math.cos(angle) - x * math.sin(angle)


def gabor(x: Tensor, y: Tensor, cell: Gabor) -> Tensor:
    """Return g(x, y) = γ/(πσ²) · e^{−(u² + γ²v²)/2σ²} · [cos(2πu/λ + φ) − cos φ · e^{−½(2πσ/λ)²}].

    Its integral is 0; its response to its own grating is 1 (see `grating_response`).
    """
    u, v = stripe_distance(x, y, cell.orientation), -stripe_distance(x, y, cell.orientation + 90)
    phase = math.radians(cell.phase)
    envelope = torch.exp(-(u.square() + (cell.aspect * v).square()) / (2 * cell.sigma**2))
    wave = torch.cos(2 * math.pi / cell.wavelength * u + phase) - math.cos(phase) * cell.dc_offset
    return cell.aspect / (math.pi * cell.sigma**2) * envelope * wave


def grating(x: Tensor, y: Tensor, *, orientation: float, wavelength: float, phase: float = 0.0) -> Tensor:
    """Return cos(2πu/λ + ψ): stripes of amplitude 1 about an even gray of 0, ψ (``phase``) in degrees. As ψ grows, they
    drift."""
    return torch.cos(2 * math.pi / wavelength * stripe_distance(x, y, orientation) + math.radians(phase))


def grating_response(cell: Gabor, *, orientation: float, wavelength: float, phase: float = 0.0) -> float:
    """Return ∫∫ g(x, y) · cos(k·(x, y) + ψ) dx dy in closed form: the cell's response to a grating, before
    rectification.

    With k₀ = (2π/λ, 0) the cell's own wave and k = 2π/λ′ (cos Δ, −sin Δ) the grating's, both in the cell's frame (u,
    v), Δ their angle, and H(a) = e^{−½σ²(a_u² + a_v²/γ²)}, the envelope's Fourier transform:

        cos(φ + ψ) H(k + k₀) + cos(φ − ψ) H(k − k₀) − 2 cos φ cos ψ e^{−½σ²k₀²} H(k)
    """
    angle, wave_number = math.radians(orientation - cell.orientation), 2 * math.pi / cell.wavelength
    along_u, along_v = (2 * math.pi / wavelength * f for f in (math.cos(angle), -math.sin(angle)))

    def transform(u: float) -> float:
        return math.exp(-0.5 * cell.sigma**2 * (u**2 + (along_v / cell.aspect) ** 2))

    phi, psi = math.radians(cell.phase), math.radians(phase)
    waves = math.cos(phi + psi) * transform(along_u + wave_number) + math.cos(phi - psi) * transform(
        along_u - wave_number
    )
    return waves - 2 * math.cos(phi) * math.cos(psi) * cell.dc_offset * transform(along_u)


def energy_response(even: Tensor, odd: Tensor) -> Tensor:
    """Return even² + odd², the complex cell's response: two simple cells' linear responses a quarter of a wave apart,
    of one shape."""
    return even.square() + odd.square()


def modulation(responses: Tensor) -> Tensor:
    """Return (max − min)/(max + min) over the last axis, phases or moments: 0 is constant, 1 falls to 0. Responses
    are ≥ 0.

    (…, P) give (…). A cell that never responds gives 0.
    """
    highest, lowest = responses.amax(-1), responses.amin(-1)
    return (highest - lowest) / (highest + lowest).clamp_min(torch.finfo(responses.dtype).tiny)


def selectivity(responses: Tensor, angles: Tensor) -> Tensor:
    """Return |Σ r(θ) e^{2iθ}| / Σ r(θ), the orientation selectivity: 0 responds to all alike, 1 to a single one
    (Swindale 1998).

    Args:
        responses: r (…, A) ≥ 0, not all 0, at angles that divide 180° evenly.
        angles: θ (A,), degrees.
    """
    doubled = torch.deg2rad(2 * angles)
    sine, cosine = (responses * doubled.sin()).sum(-1), (responses * doubled.cos()).sum(-1)
    return torch.hypot(sine, cosine) / responses.sum(-1)


def angle_between(a: Tensor, b: Tensor | float) -> Tensor:
    """Return the angle between two orientations, 0 to 90 degrees: 179° and 1° lie 2° apart."""
    return ((a - b + 90).remainder(180) - 90).abs()
