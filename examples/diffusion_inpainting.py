"""Inpainting with a diffusion model of handwritten digits: the upper half is kept, the rest drawn."""

import numpy as np

from tinygen import data, pictures
from tinygen.models import DDPM

pictures.require()  # before the training, not after it
digits = data.load("digits")
model = DDPM(features=64, T=1000)
model.fit(digits.x, show_progress=True)

held_out, kept = digits.test[:40], np.arange(64) < 32
filled = model.sample(40, sampling_steps=100, known=held_out, mask=kept)
pictures.image_pairs("diffusion_inpainting.png", held_out, filled, digits.image_shape)
print(
    "diffusion_inpainting.png: held-out digits, and below each its upper half with a new lower one"
)
