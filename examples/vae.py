"""A variational autoencoder of handwritten digits: train it, look at what it does."""

from tinygen import data, pictures
from tinygen.models import VAE

digits = data.load("digits")
model = VAE(features=64, latent=12)
model.fit(digits.x, show_progress=True)

print(f"bound on log p(x) of held-out digits: {model.score_samples(digits.test).mean():.2f} nats")
pictures.image_grid("vae.png", model.sample(100), digits.image_shape)
print("vae.png: samples")
