"""An autoencoder of handwritten digits: train it, look at what its code keeps."""

from tinygen import data, pictures
from tinygen.models import Autoencoder
from tinygen.models.codes import fine_tune, linear_probe

pictures.require()  # before the training, not after it
digits = data.load("digits")
model = Autoencoder(features=64, latent=16)
model.fit(digits.x, show_progress=True)

for name, measure in (("linear probe", linear_probe), ("fine-tuned", fine_tune)):
    rate, error = measure(model, digits)
    print(f"held-out digits misread from 16 numbers, {name}: {rate:.1%} ± {error:.1%}")
x = digits.test[:40]
pictures.image_pairs("autoencoder.png", x, model.reconstruct(x), digits.image_shape)
print("autoencoder.png: held-out digits, and below each what 16 numbers keep of it")
