"""The lens: what a user may ask of the aperture and the glass."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Lens(BaseModel):
    """Shape of the out-of-focus disc. The defaults are an ideal round thin lens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    blades: int = Field(default=0, ge=0, le=16, description="Aperture blades; 0 is a round aperture, else 3 to 16")
    rotation: float = Field(default=0.0, description="Rotation of the blades in degrees")
    anamorphic: float = Field(default=1.0, ge=0.25, le=4.0, description="Height of the disc over its width")
    cat_eye: float = Field(default=0.0, ge=0.0, le=1.0, description="How much discs are cut towards the corners")
    chromatic: float = Field(
        default=0.0, ge=0.0, le=0.1, description="Share by which red discs grow and blue ones shrink"
    )
    highlights: float = Field(default=0.0, ge=0.0, le=10.0, description="How many stops clipped light is brightened")
