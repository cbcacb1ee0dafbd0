"""A diffusion model of handwritten digits: train it, look at what it does."""

from tinygen import data, pictures
from tinygen.models import DDPM
from tinygen.models.diffusion import variational_bound

pictures.require()  # before the training, not after it
digits = data.load("digits")
model = DDPM(features=64, T=1000, schedule="cosine")
model.fit(digits.x, show_progress=True)

pictures.image_grid("diffusion.png", model.sample(100, sampler="ddpm"), digits.image_shape)
print("diffusion.png: samples, by the 1000 steps of the chain")

bound = variational_bound(model, digits.test[:100])
print(f"held-out digits take at most {bound.bits_per_dimension(64):.2f} bits a pixel,", end=" ")
parts = (bound.prior.mean(), bound.steps.sum(axis=1).mean(), bound.decoder.mean())
print("in nats {:.3f} for x_T, {:.1f} for the steps, {:.1f} for the last".format(*parts))
