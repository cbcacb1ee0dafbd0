"""A contractive autoencoder of handwritten digits: train it, look at what it does."""

from tinygen import data, pictures
from tinygen.models import ContractiveAutoencoder
from tinygen.models.autoencoder import jacobian_norm

digits = data.load("digits")
model = ContractiveAutoencoder(features=64, penalty=0.1)
model.fit(digits.x, show_progress=True)

x = digits.test[:40]
print(f"mean squared norm of the encoder's Jacobian: {jacobian_norm(model.encoder, x).mean():.3f}")
pictures.image_pairs("contractive.png", x, model.reconstruct(x), digits.image_shape)
print("contractive.png: held-out digits, and below each its reconstruction")
