"""A contractive autoencoder of handwritten digits: train it, look at what it does."""

from tinygen import data, pictures
from tinygen.models import ContractiveAutoencoder
from tinygen.models.autoencoder import hutchinson_variance
from tinygen.random import Generator

pictures.require()  # before the training, not after it
digits = data.load("digits")
model = ContractiveAutoencoder(features=64, penalty=0.1)
model.fit(digits.x, show_progress=True)

x = digits.test[:40]
exact, mean, variance = hutchinson_variance(model.encoder, x, Generator(0))
print(f"squared norm of the encoder's Jacobian, mean over digits: {exact.mean():.3f}")
print(f"  by 100 random projections each: {mean.mean():.3f}")
print(f"  standard deviation of a single projection: {(variance**0.5).mean():.3f}")
pictures.image_pairs("contractive.png", x, model.reconstruct(x), digits.image_shape)
print("contractive.png: held-out digits, and below each its reconstruction")
