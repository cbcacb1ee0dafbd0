"""A variational autoencoder of handwritten digits: density, generation, representation."""

import numpy as np

from tinygen import data, pictures
from tinygen.models import VAE
from tinygen.models.codes import interpolate, traverse
from tinygen.random import Generator

pictures.require()  # before the training, not after it
digits = data.load("digits")
# Bits drawn with the greys as probabilities have a probability; greys themselves have none.
model = VAE(features=64, latent=12, binarise=True, kl_warmup=500)
model.fit(digits.x, show_progress=True)

held_out = Generator(0).bernoulli(digits.test)
print("held-out digits, nats each:")
print(f"  bound (ELBO)                {model.score_samples(held_out).mean():.2f}")
print(f"  bound with 10 samples       {model.score_samples(held_out, k=10).mean():.2f}")
log_p, error = model.log_likelihood(held_out, k=200)
print(
    f"  log p, importance sampling  {log_p.mean():.2f} ± {np.linalg.norm(error) / len(error):.2f}"
)
log_p, error = log_p[:20], error[:20]
print("of the first 20:")
print(f"  log p, importance sampling  {log_p.mean():.2f} ± {np.linalg.norm(error) / 20:.2f}")
log_p, error = model.annealed_log_likelihood(held_out[:20], temperatures=50)
print(f"  log p, annealing            {log_p.mean():.2f} ± {np.linalg.norm(error) / 20:.2f}")

units = model.units(held_out)
order = np.argsort(-units.kl)
print(
    f"{units.active.sum()} of {len(units.kl)} units are active; nats in each: {units.kl[order].round(2)}"
)

pictures.image_grid("vae.png", model.sample(100), digits.image_shape)
codes = model.encode(held_out[:2])
rows = [interpolate(*codes, n=10), traverse(codes[0], n=10)]
pictures.image_grid("vae-codes.png", model.decode(np.concatenate(rows)), digits.image_shape, 10)
print("vae.png: samples")
print("vae-codes.png: from one digit to another, and below each unit of a code from -3 to 3")
