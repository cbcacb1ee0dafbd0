"""Bernoullis made of probabilities, the certain ones among them."""

from math import inf, log

from tests.support.distributions import BITS, LOGITS, Fixed, close
from tests.support.on_device import np, special, tg
from tinygen.distributions import Bernoulli, js_divergence, kl_divergence


def test_bernoullis_are_made_of_probabilities_as_well():
    p = special.expit(LOGITS)
    for name in ("logits", "probs", "mean", "variance"):
        made, known = (getattr(b, name).data for b in (Bernoulli(probs=p), Bernoulli(LOGITS)))
        np.testing.assert_allclose(made, known, rtol=1e-12)
    np.testing.assert_allclose(
        Bernoulli(probs=p).log_prob(BITS).data, Bernoulli(LOGITS).log_prob(BITS).data, rtol=1e-12
    )
    single = Bernoulli(probs=p.astype(np.float32))
    assert single.log_prob(BITS).dtype == single.entropy().dtype == np.float32
    assert js_divergence(single, single).dtype == np.float32
    tg.gradcheck(lambda v: Bernoulli(probs=v).log_prob(BITS), [p])
    tg.gradcheck(lambda v, w: kl_divergence(Bernoulli(probs=v), Bernoulli(probs=w)), [p, p[::-1]])


def test_a_certain_bernoulli():
    never, coin, always = (Bernoulli(probs=np.array(p)) for p in (0.0, 0.5, 1.0))
    outcomes = np.array([0.0, 0.3, 1.0])
    assert never.log_prob(outcomes).data.tolist() == [0, -inf, -inf]
    assert always.log_prob(outcomes).data.tolist() == [-inf, -inf, 0]
    for p in (never, always):
        assert p.entropy().item() == kl_divergence(p, p).item() == 0
        assert p.variance.item() < 1e-300
        assert kl_divergence(p, coin).item() == close(log(2), 1e-15)
        assert kl_divergence(coin, p).item() == inf
        assert js_divergence(p, p).item() == 0
        assert p.sample(Fixed(0.0)).item() == p.mean.item()
    assert kl_divergence(never, always).item() == kl_divergence(always, never).item() == inf
    assert js_divergence(never, always).item() == log(2)
