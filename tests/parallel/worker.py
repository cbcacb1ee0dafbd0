"""What the ranks of a test do: `mpiexec -n N python -m tests.parallel.worker TASK ARGUMENTS`."""

from __future__ import annotations

import os
import signal
import sys

import numpy as np

from tinygen import data, ops
from tinygen.autodiff.engine import tensor
from tinygen.models import DDPM, GAN, VAE, Autoencoder, ContractiveAutoencoder, DenoisingAutoencoder
from tinygen.nn import Dropout
from tinygen.parallel import by_rows, ranks_of
from tinygen.random import Generator

DIGITS = data.load("digits")
X, LABELS = DIGITS.x[:150], DIGITS.y[:150] % 3
SMALL = {"hidden": (8,), "latent": 3}
RUN = {
    "steps": 200,
    "batch": 46,
    "warmup": 5,
    "lr": 2e-3,
    "ema_decay": 0.9,
}  # 46: uneven on 2, 3, 4


class WithDropout(Autoencoder):
    """A generator of the model's own draws as well as the loop's."""

    def __init__(self, features: int) -> None:
        super().__init__(features, **SMALL)
        self.dropout = Dropout(0.2, rng=5)

    def loss(self, x, rng):
        x = self.normalise(x)
        y = self.decoder(self.encoder(self.dropout(x)))
        return {"loss": ops.mse(y, x), "far": ops.mean(ops.square(y - x))}


MAKE = {
    "ae": lambda: Autoencoder(64, bounded=False, **SMALL),
    "dropout": lambda: WithDropout(64),
    "dae": lambda: DenoisingAutoencoder(64, **SMALL),
    "dae, range of the batch": lambda: DenoisingAutoencoder(
        64, corruption="salt-and-pepper", bounded=False, **SMALL
    ),
    "cae": lambda: ContractiveAutoencoder(64, estimate="hutchinson", **SMALL),
    "vae": lambda: VAE(64, kl_warmup=50, **SMALL),
    "vae, free bits": lambda: VAE(64, free_bits=0.3, **SMALL),
    "vae, k = 3": lambda: VAE(64, k=3, binarise=True, **SMALL),
    "gan": lambda: GAN(64, discriminator_steps=2, **SMALL),
    "gan, wasserstein": lambda: GAN(
        64, loss="wasserstein", penalty="wgan-gp", spectral=True, **SMALL
    ),
    "ddpm": lambda: DDPM(64, width=8, blocks=1, classes=3),
    "ddpm, variance": lambda: DDPM(64, width=8, blocks=1, T=25, variance="learned"),
}


COMPILED = ("dropout", "vae, free bits", "gan", "ddpm")


def fitted(name, comm=None, x=X, **changes):
    """A trained model, and its history."""
    model = MAKE[name]()
    labels = {"labels": LABELS} if name == "ddpm" else {}
    return model, model.fit(x, **labels, comm=comm, **(RUN | changes))


def numbers(name, comm=None, **changes):
    """All that training made: parameters, buffers, counters, and the losses."""
    model, history = fitted(name, comm, **changes)
    return {**model.state_dict(), **{f"history/{k}": np.array(v) for k, v in history.items()}}


def trained(form, comm=None):
    """The numbers of all models; compiled, of some, since each compiles a program of its own."""
    names, compiled = (COMPILED, True) if form == "compiled" else (MAKE, False)
    return {
        f"{name}: {key}": a
        for name in names
        for key, a in numbers(name, comm, compile=compiled).items()
    }


# -- what rows take part in ------------------------------------------------------------------------
def measured(n, comm=None):
    """Of n rows: samples, scores, importance sampling, annealing, all by the rows of the ranks."""
    ranks, found, x = ranks_of(comm), {}, X[:n]
    for name in ("ae", "vae", "gan", "ddpm"):
        model = MAKE[name]()
        labels = {"labels": LABELS} if name == "ddpm" else {}
        model.fit(X, **labels, steps=3, batch=20)
        found[name] = by_rows(ranks, lambda n, rng, m=model: m.sample(n, rng=rng), n, rng=7)
    vae, rng = MAKE["vae"](), Generator(9)
    vae.prepare(X)
    for name, count in (("first", n), ("next", 30)):  # also by ranks that had nothing to do
        found[name] = by_rows(ranks, lambda n, rng: rng.normal((n, 5)), count, rng=rng)
    calls = {
        "elbo": lambda x, rng: vae.score_samples(x, rng=rng),
        "iwae": lambda x, rng: vae.score_samples(x, k=30, rng=rng),
        "ais": lambda x, rng: tuple(
            vae.annealed_log_likelihood(x, temperatures=4, chains=3, rng=rng)
        ),
    }
    for name, call in calls.items():
        found[name] = by_rows(ranks, call, x, rng=3)
    found["bracket"] = by_rows(
        ranks,
        lambda n, rng: vae.bracketed_log_likelihood(n, temperatures=4, chains=3, rng=rng),
        n, rng=3,
    )  # fmt: skip
    return {
        f"{name} {i}": a
        for name, made in found.items()
        for i, a in enumerate(made if isinstance(made, tuple) else (made,))
    }


# -- what goes wrong -------------------------------------------------------------------------------
class Spoiled(Autoencoder):
    """On one rank, something happens in a step."""

    rank, happens = 0, "nothing"

    def loss(self, x, rng):
        if self.step == 20 and self.rank == 1:
            if self.happens == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.happens == "fails":
                raise ValueError("the disk of this machine is full")
            if self.happens == "infinite":
                x = ops.log(tensor(x) - 5.0)
        if self.step == 20 and self.rank == 0 and self.happens == "asked to stop":
            os.kill(os.getpid(), signal.SIGTERM)
        if self.step == 250 and self.rank == 1 and self.happens == "drifts":
            self.encoder.layers[0].weight.data[0, 0] += 1e-6
        return super().loss(x, rng)


def train_spoiled(comm, happens, folder, resume=False):
    model = Spoiled(64, **SMALL)
    model.rank, model.happens = comm.Get_rank() if comm else 0, happens
    changes, x = {}, X
    if happens == "other data" and model.rank == 1:
        x = X[::-1]
    if happens == "broken data" and model.rank == 1:
        x = X.copy()
        x[5, 2] = np.nan
    if happens == "other settings" and model.rank == 1:
        changes = {"lr": 1e-3}
    model.fit(
        x, comm=comm, folder=folder, resume=resume, checkpoint_seconds=0.0,
        **(RUN | {"steps": 400 if happens == "drifts" else 60} | changes),
    )  # fmt: skip


def main(task, *arguments):
    from mpi4py.MPI import COMM_WORLD as comm

    if task == "fit":
        file, form = arguments
        found = trained(form, comm)
    elif task == "measure":
        file = arguments[0]
        found = {f"{n} {k}": a for n in (3, 30) for k, a in measured(n, comm).items()}
    else:
        train_spoiled(comm, *arguments, resume=task == "go on")
        return
    if comm.Get_rank() == 0:
        np.savez(file, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
