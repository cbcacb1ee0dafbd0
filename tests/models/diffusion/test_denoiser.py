"""The denoiser: clipping and guidance, against exact answers."""

import numpy
import pytest

from tests.support.diffusion import (
    BOTH,
    CLASSES,
    knowing_classes,
    normals_on_cpu,
    rows,
    says,
    targets,
)
from tests.support.on_device import (
    np,
    on_cpu,
    placed,
    tg,
)
from tinygen.models.diffusion import (
    ode_log_likelihood,
    score,
)


def test_an_estimate_beyond_the_range_is_at_its_end_in_scores_and_likelihoods():
    x = rows(5, 2)
    for t in (1, 12, 25):
        np.testing.assert_array_equal(*(score(says(v), x, t) for v in (3.0, 1.0)))
    np.testing.assert_array_equal(*(ode_log_likelihood(says(v), x) for v in (-2.0, -1.0)))


def test_guidance_is_between_estimates_in_the_range_of_the_data():
    model = says(0.0, classes=1, variance="learned")
    beyond = placed(numpy.array([[3.0, -3.0, 3.0, 3.0]], numpy.float32))  # two of them a variance
    inside = placed(numpy.array([[0.5, 0.25, 0.1, 0.1]], numpy.float32))
    model.network = lambda x, t, labels: tg.Tensor((beyond if labels[0] == 0 else inside).copy())
    denoiser = model.denoiser(placed(numpy.array([0])), 2.0)
    found = denoiser.output(placed(numpy.zeros((1, 2), numpy.float32)), 5)
    numpy.testing.assert_allclose(on_cpu(found), [[2 - 0.5, -2 - 0.25, 3.0, 3.0]], rtol=1e-6)


@targets
@pytest.mark.parametrize("guidance", [0, 1, 0.5, 3.0, -1])
def test_guidance_is_a_line_through_the_two_outputs(guidance, predict):
    """And so is the guided estimate of x_0: here (1 - w) E[x_0 | x_t] + w E[x_0 | x_t, label]."""
    model = knowing_classes(predict=predict)
    x, labels = normals_on_cpu(6, 1), numpy.array([0, 1, 0, 1, 1, 0])
    for t in (1, 15, 30):
        abar = model.schedule.abar[t]
        of_class, of_both = (
            numpy.concatenate(
                [on_cpu(of.estimates(tg.Tensor(placed(x)), abar)[0].data) for of in mixtures],
                axis=1,
            )
            for mixtures in (CLASSES, [BOTH])
        )
        chosen = numpy.take_along_axis(of_class, labels[:, None], 1)
        found = model.denoiser(placed(labels), guidance)(placed(x), t)
        np.testing.assert_allclose(
            found, (1 - guidance) * of_both + guidance * chosen, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize(
    ("labels", "guidance", "asked"),
    [
        (None, 1.0, [[2]]),
        ([0, 1, 1], 0.0, [[2]]),
        ([0, 1, 1], 1.0, [[0, 1, 1]]),
        (1, 1.0, [[1, 1, 1]]),
        ([0, 1, 1], 2.0, [[0, 1, 1], [2]]),
    ],
)
def test_what_the_network_is_asked(labels, guidance, asked):
    """Guidance of 0 and 1 needs one output, any other two."""
    model = knowing_classes()
    network, seen = model.network, []
    model.network = lambda x, t, y: seen.append(on_cpu(y).tolist()) or network(x, t, y)
    model.sample(3, labels=labels, guidance=guidance, sampling_steps=[7])
    assert seen == asked


def test_guidance_leaves_a_learned_variance_to_the_label():
    model = knowing_classes(variance="learned")
    network = model.network
    model.network = lambda x, t, y: tg.concatenate(
        [network(x, t, y), placed((on_cpu(y)[:, None] + 0 * on_cpu(x)).astype(np.float32))], axis=1
    )
    x = placed(normals_on_cpu(3, 1).astype(np.float32))
    for guidance, shares in ((0, 2.0), (1, 1.0), (4, 1.0)):
        output = model.denoiser(placed(numpy.array([1, 1, 1])), guidance).output(x, 5)
        assert on_cpu(output)[:, 1].tolist() == [shares] * 3
