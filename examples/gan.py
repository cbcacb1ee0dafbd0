"""A generative adversarial network of handwritten digits: train it, look at what it does."""

import numpy as np

from tinygen import data, pictures
from tinygen.metrics import parzen
from tinygen.models import GAN

pictures.require()  # before the training, not after it
digits = data.load("digits")
model = GAN(features=64, latent=32)
model.fit(digits.x, show_progress=True)  # and says so if it diverges or collapses

half = len(digits.test) // 2
validation, test = digits.test[:half], digits.test[half:]
nats, error, sigma = parzen(model.sample(2000), validation, test, np.logspace(-1, 0, 10))
print(f"Parzen log-likelihood, as in 2014: {nats:.1f} ± {error:.1f} nats, kernels of {sigma:.2f}")
js, error = model.js_bound(test)
print(f"JS of samples and data, by what D sees: at least {js:.2f} ± {error:.2f} of 0.69 nats")
pictures.image_grid("gan.png", model.sample(100), digits.image_shape)
print("gan.png: samples")
