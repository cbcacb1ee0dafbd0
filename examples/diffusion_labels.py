"""A class-conditional diffusion model of handwritten digits, with guidance towards the label."""

import numpy as np

from tinygen import data, pictures
from tinygen.models import DDPM

pictures.require()  # before the training, not after it
digits = data.load("digits")
model = DDPM(features=64, T=1000, classes=10)
model.fit(digits.x, labels=digits.y, show_progress=True)

labels = np.repeat(np.arange(10), 10)
samples = model.sample(100, sampler="ddim", sampling_steps=100, labels=labels, guidance=2.0)
pictures.image_grid("diffusion_labels.png", samples, digits.image_shape)
print("diffusion_labels.png: a row of samples for each of the labels 0 to 9")
