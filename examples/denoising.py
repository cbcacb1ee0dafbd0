"""A denoising autoencoder of handwritten digits: train it, look at what it does."""

from tinygen import data, pictures
from tinygen.models import DenoisingAutoencoder
from tinygen.random import Generator

pictures.require()  # before the training, not after it
digits = data.load("digits")
model = DenoisingAutoencoder(features=64, corruption="gaussian", amount=0.3)
model.fit(digits.x, show_progress=True)

noisy = model.corrupt(digits.test[:40], Generator(1))
clean = model.decode(model.code(noisy).data)
pictures.image_pairs("denoising.png", noisy, clean, digits.image_shape)
print("denoising.png: corrupted held-out digits, and below each the reconstruction")
