"""Denoising diffusion (Ho, Jain & Abbeel 2020), with the handout's misprints put right.

    schedule.py   how much noise at each time, and what follows: posteriors, pairs of times
    targets.py    what the network predicts, how x_0 follows, what an error weighs
    variance.py   the variance of a reverse step: given, or learned
    network.py    the residual MLP that sees x_t and t
    denoiser.py   D(x_t, t), the estimate of x_0: labels, guidance, clipping
    samplers.py   DDPM, DDIM, DPM-Solver++(2M), inpainting: each a loop over D
    ddpm.py       the model: training, sampling, conditions
    bound.py      the variational bound in full, in nats and bits
    score.py      the score; Langevin dynamics; log-likelihood by the probability-flow ODE

Time runs t = 1..T. Arrays of a schedule have length T + 1 and index t itself; index 0 is the
data: beta[0] = 0, abar[0] = 1. So q(x_t | x_{t-1}) = N(sqrt(1 - β_t) x_{t-1}, β_t I) (eq. 2) and
q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I) (eq. 4).
"""

from tinygen.models.diffusion.bound import Bound, variational_bound
from tinygen.models.diffusion.ddpm import DDPM
from tinygen.models.diffusion.denoiser import Denoiser
from tinygen.models.diffusion.samplers import SAMPLERS, ddim, ddpm, dpm_solver
from tinygen.models.diffusion.schedule import (
    SCHEDULES,
    NoiseSchedule,
    add_noise,
    cosine_schedule,
    linear_schedule,
    log_normal_schedule,
    sigmoid_schedule,
)
from tinygen.models.diffusion.score import annealed_langevin, langevin, ode_log_likelihood, score
from tinygen.models.diffusion.targets import TARGETS, WEIGHTS

__all__ = [
    "DDPM", "SAMPLERS", "SCHEDULES", "TARGETS", "WEIGHTS", "Bound", "Denoiser", "NoiseSchedule", "add_noise",
    "annealed_langevin", "cosine_schedule", "ddim", "ddpm", "dpm_solver", "langevin",
    "linear_schedule", "log_normal_schedule", "ode_log_likelihood", "score", "sigmoid_schedule",
    "variational_bound",
]  # fmt: skip
