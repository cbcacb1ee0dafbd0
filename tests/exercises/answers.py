"""Answers to the exercises: the right one of each, and mistakes that students make.

An answer has a body for each function of the exercise: the lines that stand in the place of the
blank. A mistake names the functions that differ from the right answer.
"""

from __future__ import annotations

from textwrap import dedent, indent

from tinygen.exercises.check import TASKS

Bodies = dict[str, str]


def filled(task: str, bodies: Bodies) -> str:
    """The text of the exercise with these bodies in the place of its blanks."""
    text = TASKS[task]
    for function, body in bodies.items():
        before, head, rest = text.partition(f"def {function}(")
        given, blank, after = rest.partition("    raise NotImplementedError\n")
        assert head and blank and "\ndef " not in given, function
        text = before + head + given + indent(dedent(body).strip("\n"), "    ") + "\n" + after
    return text


SOFT = "c = log_w.max(axis=0)\nw = np.exp(log_w - c)\n"
GRAPH_ORDER = """
    users, needed, waiting = {root: 0}, {root}, [root]
    while waiting:
        for name, _ in graph[waiting.pop()]:
            users[name] = users.get(name, 0) + 1
            if name not in needed:
                needed.add(name)
                waiting.append(name)
    found, ready = [], [root]
    while ready:
        node = ready.pop()
        found.append(node)
        for name, _ in graph[node]:
            users[name] -= 1
            if users[name] == 0:
                ready.append(name)
    return found
"""
NETWORK = """
    h = np.tanh(x @ w1 + b1)
    g = 2 * (h @ w2 + b2 - y) / y.size
    a = g @ w2.T * (1 - h**2)
    return x.T @ a, a.sum(0), h.T @ g, g.sum(0)
"""
JACOBIAN = """
    h = 1 / (1 + np.exp(-(x @ w + b)))
    return ((h * (1 - h)) ** 2) @ (w**2).sum(axis=0)
"""
KL = "return np.log(s_q / s_p) + (s_p**2 + (m_p - m_q) ** 2) / (2 * s_q**2) - 0.5"
JS = """
    m = (p + q) / 2

    def kl(a):
        return np.sum(a * np.log(np.where(a > 0, a, 1) / np.where(a > 0, m, 1)), axis=1)

    return (kl(p) + kl(q)) / 2
"""
MONTE_CARLO = """
    a = log_p_x_given_z
    return a.max() + np.log(np.mean(np.exp(a - a.max())))
"""
ELBO = """
    kl = 0.5 * np.sum(mean**2 + np.exp(log_var) - log_var - 1, axis=1)
    return log_p_x_given_z.mean(axis=0) - kl
"""
R1 = """
    x = tg.tensor(x, requires_grad=True)
    slope = tg.gradients(tg.sum(D(x)), x, create_graph=True)
    return 0.5 * tg.mean(tg.sum(tg.square(slope), axis=1))
"""
POSTERIOR = """
    abar_t = abar_s * (1 - beta_t)
    mean = np.sqrt(abar_s) * beta_t * x0 + np.sqrt(1 - beta_t) * (1 - abar_s) * xt
    return mean / (1 - abar_t), (1 - abar_s) * beta_t / (1 - abar_t)
"""
DDPM = """
    for t in range(len(beta) - 1, 0, -1):
        x = (x - beta[t] / np.sqrt(1 - abar[t]) * estimate(x, t)) / np.sqrt(1 - beta[t])
        if t > 1:
            x = x + np.sqrt(beta[t]) * z[t]
    return x
"""
DDIM = """
    x0 = (xt - np.sqrt(1 - abar_t) * noise) / np.sqrt(abar_t)
    return np.sqrt(abar_s) * x0 + np.sqrt(1 - abar_s) * noise
"""

RIGHT: dict[str, Bodies] = {
    "01_rules.py": {
        "tanh_rule": "return g * (1 - y**2)",
        "divide_rule": "return -g * a / b**2",
    },
    "02_unbroadcast.py": {
        "unbroadcast": """
            d = d.sum(axis=tuple(range(d.ndim - len(shape))))
            ones = tuple(i for i, n in enumerate(shape) if n == 1)
            return d.sum(axis=ones, keepdims=True)
        """,
    },
    "03_backward.py": {
        "order": GRAPH_ORDER,
        "gradients": """
            found = {root: 1.0}
            for node in order(root, graph):
                for name, slope in graph[node]:
                    found[name] = found.get(name, 0.0) + found[node] * slope
            return found
        """,
    },
    "04_network.py": {"gradients": NETWORK},
    "05_contractive.py": {"penalty": JACOBIAN},
    "06_denoising.py": {
        "loss": "return np.mean(np.sum((clean - decode(encode(corrupted))) ** 2, axis=1))"
    },
    "07_kl.py": {"kl": KL},
    "08_js.py": {"js": JS},
    "09_monte_carlo.py": {"log_likelihood": MONTE_CARLO},
    "10_elbo.py": {"elbo": ELBO},
    "11_reparameterise.py": {"draw": "return mean + tg.exp(0.5 * log_var) * noise"},
    "12_iwae.py": {
        "bound": SOFT + "return c + np.log(w.mean(axis=0))",
        "normalised": SOFT + "return w / w.sum(axis=0)",
    },
    "13_gan_losses.py": {
        "discriminator_loss": "return tg.mean(tg.softplus(-real)) + tg.mean(tg.softplus(fake))",
        "generator_loss": "return tg.mean(tg.softplus(-fake))",
    },
    "14_r1.py": {"r1": R1},
    "15_schedule.py": {"abar": "return np.append(1.0, np.cumprod(1 - beta))"},
    "16_forward.py": {
        "step": "return np.sqrt(1 - beta) * x + np.sqrt(beta) * noise",
        "jump": "a = abar[:, None]\nreturn np.sqrt(a) * x0 + np.sqrt(1 - a) * noise",
    },
    "17_posterior.py": {"posterior": POSTERIOR},
    "18_ddpm.py": {"sample": DDPM},
    "19_ddim.py": {"step": DDIM},
    "20_score.py": {
        "score": "return -noise / np.sqrt(1 - abar_t)",
        "denoised": "return (xt + (1 - abar_t) * score) / np.sqrt(abar_t)",
    },
}

WRONG: list[tuple[str, str, Bodies]] = [  # exercise, mistake, and the bodies that have it
    ("01_rules.py", "without g", {"tanh_rule": "return 1 - y**2"}),
    ("01_rules.py", "the slope as if y were x", {"tanh_rule": "return g * (1 - g**2)"}),
    ("01_rules.py", "the sign", {"divide_rule": "return g * a / b**2"}),
    ("01_rules.py", "b for b²", {"divide_rule": "return -g * a / b"}),
    (
        "01_rules.py",
        "NumPy on Tensors",
        {"tanh_rule": "import numpy as np\nreturn np.multiply(g, 1 - np.square(y))"},
    ),
    (
        "02_unbroadcast.py",
        "the axes in front alone",
        {"unbroadcast": "return d.sum(axis=tuple(range(d.ndim - len(shape))))"},
    ),
    (
        "02_unbroadcast.py",
        "a mean",
        {"unbroadcast": RIGHT["02_unbroadcast.py"]["unbroadcast"].replace("sum", "mean")},
    ),
    ("02_unbroadcast.py", "a corner of d", {"unbroadcast": "return np.resize(d, shape)"}),
    (
        "03_backward.py",
        "a use is forgotten",
        {"gradients": RIGHT["03_backward.py"]["gradients"].replace("found.get(name, 0.0) +", "")},
    ),
    (
        "03_backward.py",
        "breadth first",
        {
            "order": """
                found = [root]
                for node in found:
                    found += [name for name, _ in graph[node] if name not in found]
                return list(dict.fromkeys(found))
            """
        },
    ),
    (
        "03_backward.py",
        "recursion",
        {
            "order": """
                found = []

                def visit(node):
                    if node not in found:
                        for name, _ in graph[node]:
                            visit(name)
                        found.append(node)

                visit(root)
                return found[::-1]
            """
        },
    ),
    ("03_backward.py", "oldest first", {"order": GRAPH_ORDER.replace("found\n", "found[::-1]\n")}),
    (
        "03_backward.py",
        "paths for nodes",
        {
            "gradients": """
                found, waiting = {}, [(root, 1.0)]
                while waiting:
                    node, g = waiting.pop()
                    found[node] = found.get(node, 0.0) + g
                    waiting += [(name, g * slope) for name, slope in graph[node]]
                return found
            """
        },
    ),
    ("04_network.py", "the 2 of the square", {"gradients": NETWORK.replace("2 *", "")}),
    ("04_network.py", "the mean", {"gradients": NETWORK.replace("/ y.size", "")}),
    ("04_network.py", "the rows alone", {"gradients": NETWORK.replace("y.size", "len(y)")}),
    ("04_network.py", "the slope of tanh", {"gradients": NETWORK.replace("(1 - h**2)", "1")}),
    ("04_network.py", "a mean over rows", {"gradients": NETWORK.replace("a.sum", "a.mean")}),
    ("05_contractive.py", "the norm", {"penalty": JACOBIAN.replace("0)\n", "0) ** 0.5\n")}),
    ("05_contractive.py", "a slope not squared", {"penalty": JACOBIAN.replace(") ** 2)", "))")}),
    ("05_contractive.py", "absolute values", {"penalty": JACOBIAN.replace("(w**2)", "abs(w)")}),
    ("05_contractive.py", "the wrong axis", {"penalty": JACOBIAN.replace("axis=0", "axis=1")}),
    ("05_contractive.py", "no penalty, as printed", {"penalty": "return np.zeros(len(x))"}),
    (
        "06_denoising.py",
        "g(f(x)), as printed",
        {"loss": "return np.mean(np.sum((clean - decode(encode(clean))) ** 2, axis=1))"},
    ),
    (
        "06_denoising.py",
        "compared with the corrupted rows",
        {"loss": "return np.mean(np.sum((corrupted - decode(encode(corrupted))) ** 2, axis=1))"},
    ),
    (
        "06_denoising.py",
        "a mean over the features",
        {"loss": "return np.mean((clean - decode(encode(corrupted))) ** 2)"},
    ),
    ("07_kl.py", "the other way round", {"kl": "m_p, s_p, m_q, s_q = m_q, s_q, m_p, s_p\n" + KL}),
    ("07_kl.py", "without ½", {"kl": KL.replace(" - 0.5", "")}),
    ("07_kl.py", "the logarithm's sign", {"kl": KL.replace("s_q / s_p", "s_p / s_q")}),
    ("07_kl.py", "s for s²", {"kl": KL.replace("s_q**2", "s_q").replace("s_p**2", "s_p")}),
    ("08_js.py", "without ½", {"js": JS.replace(" / 2\n", "\n", 2)[:-1]}),
    (
        "08_js.py",
        "the distance",
        {"js": JS.replace("(kl(p) + kl(q)) / 2", "np.sqrt(kl(p) + kl(q)) / 2")},
    ),
    ("08_js.py", "one half of it", {"js": JS.replace("+ kl(q)", "+ kl(p)")}),
    (
        "08_js.py",
        "0 log 0",
        {"js": JS.replace("np.where(a > 0, a, 1) / np.where(a > 0, m, 1)", "a / m")},
    ),
    (
        "09_monte_carlo.py",
        "as printed: no 1/n, the prior twice",
        {"log_likelihood": "return np.log(np.sum(np.exp(log_p_x_given_z + log_p_z)))"},
    ),
    (
        "09_monte_carlo.py",
        "no 1/n",
        {"log_likelihood": MONTE_CARLO.replace("np.mean", "np.sum")},
    ),
    (
        "09_monte_carlo.py",
        "the prior twice",
        {"log_likelihood": MONTE_CARLO.replace("given_z\n", "given_z + log_p_z\n")},
    ),
    (
        "09_monte_carlo.py",
        "the mean of logarithms",
        {"log_likelihood": "return log_p_x_given_z.mean()"},
    ),
    (
        "09_monte_carlo.py",
        "underflow",
        {"log_likelihood": "return np.log(np.mean(np.exp(log_p_x_given_z)))"},
    ),
    ("10_elbo.py", "the sign of KL", {"elbo": ELBO.replace("- kl", "+ kl")}),
    ("10_elbo.py", "without ½", {"elbo": ELBO.replace("0.5 *", "")}),
    ("10_elbo.py", "no KL", {"elbo": ELBO.replace("- kl", "")}),
    ("10_elbo.py", "one KL for all rows", {"elbo": ELBO.replace(", axis=1)", ")")}),
    ("10_elbo.py", "one mean for all rows", {"elbo": ELBO.replace(".mean(axis=0)", ".mean()")}),
    ("10_elbo.py", "a sum over draws", {"elbo": ELBO.replace(".mean(axis", ".sum(axis")}),
    (
        "10_elbo.py",
        "log_var for the variance",
        {"elbo": ELBO.replace("np.exp(log_var)", "log_var**2")},
    ),
    ("11_reparameterise.py", "the variance", {"draw": "return mean + tg.exp(log_var) * noise"}),
    ("11_reparameterise.py", "log_var itself", {"draw": "return mean + log_var * noise"}),
    (
        "11_reparameterise.py",
        "cut from the graph",
        {"draw": "return mean.data + (0.5 * log_var.data).__array__() * 0 + 1 * noise"},
    ),
    (
        "11_reparameterise.py",
        "detached",
        {"draw": "return (mean + tg.exp(0.5 * log_var) * noise).detach()"},
    ),
    ("12_iwae.py", "the ELBO", {"bound": "return log_w.mean(axis=0)"}),
    ("12_iwae.py", "no 1/k", {"bound": SOFT + "return c + np.log(w.sum(axis=0))"}),
    ("12_iwae.py", "underflow", {"bound": "return np.log(np.exp(log_w).mean(axis=0))"}),
    (
        "12_iwae.py",
        "over the rows of x",
        {"normalised": "w = np.exp(log_w)\nreturn w / w.sum(axis=1)[:, None]"},
    ),
    ("12_iwae.py", "weights of 1/k", {"normalised": "return np.ones_like(log_w) / len(log_w)"}),
    (
        "13_gan_losses.py",
        "as printed: saturating",
        {"generator_loss": "return -tg.mean(tg.softplus(fake))"},
    ),
    (
        "13_gan_losses.py",
        "as printed: D's loss to be made large",
        {"discriminator_loss": "return -tg.mean(tg.softplus(-real)) - tg.mean(tg.softplus(fake))"},
    ),
    (
        "13_gan_losses.py",
        "real and fake exchanged",
        {"discriminator_loss": "return tg.mean(tg.softplus(real)) + tg.mean(tg.softplus(-fake))"},
    ),
    (
        "13_gan_losses.py",
        "overflow",
        {"generator_loss": "return -tg.mean(tg.log(1 / (1 + tg.exp(-fake))))"},
    ),
    ("14_r1.py", "without ½", {"r1": R1.replace("0.5 *", "")}),
    (
        "14_r1.py",
        "a mean over features",
        {"r1": R1.replace("tg.sum(tg.square(slope), axis=1)", "tg.square(slope)")},
    ),
    ("14_r1.py", "not squared", {"r1": R1.replace("tg.square", "tg.abs")}),
    ("14_r1.py", "a sum over rows", {"r1": R1.replace("tg.mean", "tg.sum")}),
    ("14_r1.py", "not differentiable", {"r1": R1.replace(", create_graph=True", "")}),
    ("15_schedule.py", "β for α, as printed", {"abar": "return np.append(1.0, np.cumprod(beta))"}),
    ("15_schedule.py", "without t = 0", {"abar": "return np.cumprod(1 - beta)"}),
    ("15_schedule.py", "a sum", {"abar": "return np.append(1.0, 1 - np.cumsum(beta))"}),
    (
        "16_forward.py",
        "as printed",
        {"step": "return np.sqrt(beta) * x + np.sqrt(1 - beta) * noise"},
    ),
    ("16_forward.py", "no roots", {"step": "return (1 - beta) * x + beta * noise"}),
    (
        "16_forward.py",
        "abar across the columns",
        {"jump": "return np.sqrt(abar[0]) * x0 + np.sqrt(1 - abar[0]) * noise"},
    ),
    (
        "16_forward.py",
        "no root of the noise",
        {"jump": RIGHT["16_forward.py"]["jump"].replace("np.sqrt(1 - a)", "(1 - a)")},
    ),
    (
        "17_posterior.py",
        "the variance β",
        {"posterior": POSTERIOR.replace("(1 - abar_s) * beta_t /", "beta_t * (1 - abar_t) /")},
    ),
    (
        "17_posterior.py",
        "x_0 and x_t exchanged",
        {"posterior": "x0, xt = xt, x0\n" + dedent(POSTERIOR)},
    ),
    (
        "17_posterior.py",
        "abar for α",
        {"posterior": POSTERIOR.replace("np.sqrt(1 - beta_t)", "np.sqrt(abar_t)")},
    ),
    (
        "17_posterior.py",
        "the mean alone",
        {"posterior": POSTERIOR.replace("(1 - abar_t), ", "(1 - abar_t) #")},
    ),
    (
        "18_ddpm.py",
        "abar for α, as printed",
        {
            "sample": DDPM.replace("beta[t] / np", "(1 - abar[t]) / np").replace(
                "sqrt(1 - beta[t])", "sqrt(abar[t])"
            )
        },
    ),
    ("18_ddpm.py", "the cut loop, as printed", {"sample": DDPM.replace("1, 0, -1", "1, 1, -1")}),
    ("18_ddpm.py", "noise in the last step", {"sample": DDPM.replace("t > 1", "t > 0")}),
    (
        "18_ddpm.py",
        "the variance for its root",
        {"sample": DDPM.replace("np.sqrt(beta[t]) * z", "beta[t] * z")},
    ),
    (
        "18_ddpm.py",
        "the other variance",
        {
            "sample": DDPM.replace(
                "np.sqrt(beta[t]) *", "np.sqrt(beta[t] * (1 - abar[t - 1]) / (1 - abar[t])) *"
            )
        },
    ),
    ("19_ddim.py", "the same time twice", {"step": DDIM.replace("abar_s", "abar_t")}),
    (
        "19_ddim.py",
        "no noise put back",
        {"step": DDIM.replace(" + np.sqrt(1 - abar_s) * noise", "")},
    ),
    ("19_ddim.py", "no root", {"step": DDIM.replace("np.sqrt(1 - abar_t)", "(1 - abar_t)")}),
    ("20_score.py", "ε itself, as printed", {"score": "return noise"}),
    ("20_score.py", "the sign", {"score": "return noise / np.sqrt(1 - abar_t)"}),
    ("20_score.py", "no root", {"score": "return -noise / (1 - abar_t)"}),
    ("20_score.py", "minus", {"denoised": "return (xt - (1 - abar_t) * score) / np.sqrt(abar_t)"}),
    (
        "20_score.py",
        "a root too many",
        {"denoised": "return (xt + np.sqrt(1 - abar_t) * score) / np.sqrt(abar_t)"},
    ),
]
