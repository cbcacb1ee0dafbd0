"""A generative adversarial network of handwritten digits: train it, look at what it does."""

from tinygen import data, pictures
from tinygen.models import GAN

digits = data.load("digits")
model = GAN(features=64, latent=32)
model.fit(digits.x, show_progress=True)

pictures.image_grid("gan.png", model.sample(100), digits.image_shape)
print("gan.png: samples")
