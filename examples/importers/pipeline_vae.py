"""A VAE in a pipeline of scikit-learn: a classifier of its codes, and a search for their length."""

from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from tinygen import data
from tinygen.sklearn import VAE

digits = data.load("digits")
pipeline = Pipeline(
    [
        ("vae", VAE(likelihood="bernoulli", hidden=(128,), steps=1000, random_state=0)),
        ("classifier", LogisticRegression(max_iter=1000)),
    ]
)
search = GridSearchCV(pipeline, {"vae__latent": [2, 6, 12]}, cv=3)
search.fit(digits.x, digits.y)  # the VAE sees no labels

for latent, accuracy in zip(
    search.cv_results_["param_vae__latent"], search.cv_results_["mean_test_score"], strict=True
):
    print(f"{latent:2} numbers a code: cross-validated accuracy {accuracy:.1%}")
print(f"held-out digits: accuracy {search.score(digits.test, digits.y_test):.1%}")

vae = search.best_estimator_["vae"]
again = vae.inverse_transform(vae.transform(digits.test))
print(f"from code to picture: {abs(again - digits.test).mean():.3f} off a pixel, of 1")
print(f"new digits: {vae.sample(10, random_state=0).shape}")
