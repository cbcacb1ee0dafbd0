"""A diffusion model of handwritten digits: train it, look at what it does."""

from tinygen import data, pictures
from tinygen.models import DDPM

digits = data.load("digits")
model = DDPM(features=64, steps=1000, schedule="cosine")
model.fit(digits.x, show_progress=True)

pictures.image_grid("diffusion.png", model.sample(100), digits.image_shape)
print("diffusion.png: samples")
