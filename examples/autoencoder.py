"""An autoencoder of handwritten digits: train it, look at what it does."""

from tinygen import data, pictures
from tinygen.models import Autoencoder

digits = data.load("digits")
model = Autoencoder(features=64, latent=16)
model.fit(digits.x, show_progress=True)

x = digits.test[:40]
pictures.image_pairs("autoencoder.png", x, model.reconstruct(x), digits.image_shape)
print("autoencoder.png: held-out digits, and below each what 16 numbers keep of it")
