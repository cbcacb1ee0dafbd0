"""The library's formulas, each with a mistake in it: what `test_mutants.py` makes sure is seen.

A line of the table: what the mistake is, the file in `tinygen/`, the right text and the wrong one,
and the tests that fail with it (`file::test` in this folder; with all its cases).
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """In `file`, `right` becomes `wrong`; then one of the `tests` fails."""

    what: str
    file: str
    right: str
    wrong: str
    tests: str


SCHEDULE, DDPM, SAMPLERS, BOUND, SCORE = (
    f"models/diffusion/{name}.py" for name in ("schedule", "ddpm", "samplers", "bound", "score")
)
TARGETS, VARIANCE, DENOISER = (
    f"models/diffusion/{name}.py" for name in ("targets", "variance", "denoiser")
)
VAE, LIKELIHOOD, AE = "models/vae.py", "models/likelihood.py", "models/autoencoder.py"
GAN, LOSSES, PENALTIES = "models/gan/gan.py", "models/gan/losses.py", "models/gan/penalties.py"
DIVERGENCES, OPTIMISERS = "distributions/divergences.py", "optim/optimisers.py"
REFERENCE = "kernels/reference.py"
GRAPH, GPU_H = "compile/graph.py", "compile/gpu.h"

MUTANTS = [
    # -- pages -----------------------------------------------------------------------------------
    Mutant(
        "on a page, a gradient replaces the one before", "report/backward.py",
        "total = before[-1].total + d if before else d", "total = d",
        "report/test_backward.py::test_what_arrives_adds_up_to_the_gradient_to_the_bit",
    ),
    Mutant(
        "on a page, the name of a Tensor may end the script", "report/page.py",
        r'.replace("<", "\\u003c")', "",
        "report/test_graph_page.py::test_any_name_stays_a_name",
    ),
    Mutant(
        "on a page, the first rule of a line for each of them", "report/rules.py",
        "(node.value.lineno, node.arg): node.value", "(node.value.lineno, 'a'): node.value",
        "report/test_rules.py::test_two_lambdas_in_a_line_are_told_apart",
    ),
    # -- exercises -------------------------------------------------------------------------------
    Mutant(
        "in an exercise, NaN is near the right value", "exercises/laws.py",
        "off = ~(abs(found - right) <= within * np.maximum(1, abs(right)))",
        "off = abs(found - right) > within * np.maximum(1, abs(right))",
        "exercises/test_check.py::test_what_a_student_did_is_told_in_two_lines",
    ),
    Mutant(
        "in an exercise, the bound is compared with the gap to the prior", "exercises/laws.py",
        "Normal(x / 1.5, sqrt(1 / 3))", "Normal(0 * x, 1)",
        "exercises/test_check.py::test_the_right_answer_passes_all_laws",
    ),
    Mutant(
        "an exercise with one law that holds is done", "exercises/check.py",
        '"done" if holding == len(words)', '"done" if holding',
        "exercises/test_check.py::test_an_answer_in_part_shows_what_is_blank",
    ),
    # -- diffusion -------------------------------------------------------------------------------
    Mutant(
        "q(x_t | x_{t-1}) with β for 1 - β, as the handout has it", SCHEDULE,
        "self.alpha = 1.0 - self.beta", "self.alpha = self.beta",
        "models/diffusion/test_schedule.py::test_a_chain_of_single_steps_has_the_law_of_the_closed_form",
    ),
    Mutant(
        "the reverse step with abar for α, as the handout has it", SCHEDULE,
        "b = np.sqrt(abar / before) *", "b = np.sqrt(abar) *",
        "models/diffusion/test_schedule.py::test_the_posterior_by_brute_force_on_a_grid",
    ),
    Mutant(
        "a loop that stops at t = 2, as the handout has it", SCHEDULE,
        "np.linspace(self.T, 1, n)", "np.linspace(self.T, 2, n)",
        "models/diffusion/test_samplers.py::"
        "test_the_network_is_asked_for_every_t_from_the_last_to_the_first",
    ),
    Mutant(
        "the score without its minus, as the handout has it", SCORE,
        "return -model.denoiser(", "return model.denoiser(",
        "models/diffusion/test_score.py::test_the_score_is_that_of_the_mixture",
    ),
    Mutant(
        "the score without its scale, as the handout has it", SCORE,
        ".data / model.schedule.at(t)[1]", ".data",
        "models/diffusion/test_score.py::test_the_score_is_that_of_the_mixture",
    ),
    Mutant(
        "the small variance is the large one", SCHEDULE,
        "else (1 - self.abar[s]) / (1 - self.abar[t]) * large", "else large",
        "models/diffusion/test_schedule.py::test_the_posterior_by_brute_force_on_a_grid",
    ),
    Mutant(
        "the variance of the time before", SCHEDULE,
        "s == t - 1, self.beta[t],", "s == t - 1, self.beta[s],",
        "models/diffusion/test_schedule.py::test_the_posterior_by_brute_force_on_a_grid",
    ),
    Mutant(
        "noise in the last step", VARIANCE,
        "        if s == 0:\n            return 0.0\n        if isinstance", "        if isinstance",
        "models/diffusion/test_samplers.py::test_every_sample_of_the_chain_with_the_same_noise",
    ),
    Mutant(
        "the last time is never trained", DDPM,
        "rng.integers(1, self.schedule.T + 1,", "rng.integers(1, self.schedule.T,",
        "models/diffusion/test_targets.py::test_times_are_uniform_from_the_first_to_the_last",
    ),
    Mutant(
        "the velocity's sign", TARGETS,
        "return -s, a", "return s, a",
        "models/diffusion/test_samplers.py::"
        "test_a_network_that_knows_the_only_point_has_no_loss_and_samples_it",
    ),
    Mutant(
        "the larger for the smaller weight", TARGETS,
        "np.minimum(snr, 5.0)", "np.maximum(snr, 5.0)",
        "models/diffusion/test_targets.py::"
        "test_the_least_loss_of_gaussian_data_for_each_target_and_weight",
    ),
    Mutant(
        "the weight upside down", TARGETS,
        "* np.abs(of_output)", "/ np.abs(of_output)",
        "models/diffusion/test_targets.py::"
        "test_an_error_of_the_network_weighs_alike_whatever_the_target",
    ),
    Mutant(
        "a score that takes an estimate beyond the range of the data as it is", DENOISER,
        "y) if clips else y", "y) if False else y",
        "models/diffusion/test_denoiser.py::"
        "test_an_estimate_beyond_the_range_is_at_its_end_in_scores_and_likelihoods",
    ),
    Mutant(
        "a learned variance for estimates that sampling never takes", DDPM,
        "return namespace_of(xt).clip(x0, -1.0, 1.0) if self.bounded else x0", "return x0",
        "models/diffusion/test_variance.py::test_a_learned_variance_is_that_of_clipped_estimates",
    ),
    Mutant(
        "the variance of the log-normal schedule's noise for its deviation", SCHEDULE,
        "expit(-2 * log_noise)", "expit(-log_noise)",
        "models/diffusion/test_schedule.py::test_the_log_normal_schedule_has_the_quantiles_of_its_law",
    ),
    Mutant(
        "no gradient for an estimate beyond the range of the data", DDPM,
        "return output + (m.clip(output.data, -1.0, 1.0) - output.data)",
        "return ops.clip(output, -1.0, 1.0)",
        "models/diffusion/test_targets.py::"
        "test_an_estimate_beyond_the_range_of_the_data_counts_as_at_its_end",
    ),
    Mutant(
        "a learned variance that forgets the posterior's", VARIANCE,
        "spread = of_posterior + ", "spread = 0 * of_posterior + ",
        "models/diffusion/test_variance.py::test_the_loss_of_a_learned_variance_is_the_bound",
    ),
    Mutant(
        "guidance of 1 too much", DENOISER,
        "else guidance - 1", "else guidance",
        "models/diffusion/test_denoiser.py::test_guidance_is_a_line_through_the_two_outputs",
    ),
    Mutant(
        "a variance for a standard deviation", SAMPLERS,
        "+ sqrt(1 - share) * noise", "+ (1 - share) * noise",
        "models/diffusion/test_inpainting.py::test_inpainting_has_the_law_of_its_recursion",
    ),
    Mutant(
        "DDIM keeps the noise's level", SAMPLERS,
        "sigma**2, 0.0)) / noise", "sigma**2, 0.0))",
        "models/diffusion/test_samplers.py::test_ddim_keeps_the_law_of_each_time_for_every_eta",
    ),
    Mutant(
        "the solver extrapolates twice as far", SAMPLERS,
        "share = 0.5 * h /", "share = h /",
        "models/diffusion/test_samplers.py::test_the_order_of_the_samplers",
    ),
    Mutant(
        "the prior's variance enters with the wrong sign", BOUND,
        " - abar - log(1 - abar))", " + abar - log(1 - abar))",
        "models/diffusion/test_bound.py::test_the_prior_of_the_bound_is_what_is_left_of_the_data",
    ),
    Mutant(
        "the KL of a step the other way round", BOUND,
        'excess = log_p - log(schedule.variance("small", t))',
        'excess = log(schedule.variance("small", t)) - log_p',
        "models/diffusion/test_bound.py::"
        "test_the_bound_is_exact_with_the_true_reverse_kernels_and_a_bound_with_others",
    ),
    Mutant(
        "half of Langevin's noise", SCORE,
        "sqrt(2 * step) * noise", "sqrt(step) * noise",
        "models/diffusion/test_score.py::test_langevin_dynamics_has_the_law_of_its_autoregression",
    ),
    Mutant(
        "the change of units of the flow's end, reversed", SCORE,
        "+ log(signal[-1])", "- log(signal[-1])",
        "models/diffusion/test_score.py::"
        "test_the_likelihood_by_the_flow_is_the_density_of_the_mixture",
    ),
    # -- the VAE and its bounds ------------------------------------------------------------------
    Mutant(
        "1/n missing in the log-likelihood, as in the handout", LIKELIHOOD,
        "Estimate(self.total - log(k), error,", "Estimate(self.total, error,",
        "models/test_vae.py::test_the_log_of_a_mean_and_its_error",
    ),
    Mutant(
        "the prior counted twice, as in the handout", VAE,
        "noise**2 - ops.square(z)", "noise**2 - 2.0 * ops.square(z)",
        "models/test_vae.py::test_with_the_true_posterior_every_weight_is_the_density",
    ),
    Mutant(
        "the KL's sign in the loss", VAE,
        "loss = reconstruction + weight *", "loss = reconstruction - weight *",
        "models/test_vae.py::test_beta_weighs_the_kl_alone",
    ),
    Mutant(
        "the KL's sign in the bound", VAE,
        "(log_likelihood - kl).data", "(log_likelihood + kl).data",
        "models/test_vae.py::test_the_bound_is_the_log_density_at_the_true_posterior",
    ),
    Mutant(
        "1/k missing in the importance-weighted loss", VAE,
        " - np.log(self.k)", "",
        "models/test_vae.py::test_the_loss_with_k_samples_is_that_of_the_paper",
    ),
    # -- autoencoders ----------------------------------------------------------------------------
    Mutant(
        "the contractive penalty dropped, as in the handout", AE,
        '"loss": error + self.penalty * contraction,', '"loss": error,',
        "models/test_autoencoder.py::test_the_contractive_loss_is_the_error_plus_the_weighted_penalty",
    ),
    Mutant(
        "the denoiser scored against the corrupted input", AE,
        "self.decoder(self.encoder(self.corrupt(x, rng))), self.normalise(x)",
        "self.decoder(self.encoder(y := self.corrupt(x, rng))), y",
        "models/test_autoencoder.py::test_the_denoising_loss_is_against_the_clean_input",
    ),
    Mutant(
        "the denoiser's score over σ", AE,
        "/ self.amount**2", "/ self.amount",
        "models/test_autoencoder.py::test_the_score_of_gaussian_data_with_the_noise_added",
    ),
    Mutant(
        "a deep Jacobian without its slopes", AE,
        "rows = rows * ops.expand_dims(slope, 1)", "rows = rows * 1.0",
        "models/test_autoencoder.py::test_the_penalty_is_the_squared_norm_of_the_jacobian",
    ),
    # -- GANs ------------------------------------------------------------------------------------
    Mutant(
        "D's loss with samples called real", LOSSES,
        "ops.mean(ops.bce_with_logits(real, 1.0)) + ops.mean(ops.bce_with_logits(fake, 0.0))",
        "ops.mean(ops.bce_with_logits(real, 1.0)) + ops.mean(ops.bce_with_logits(fake, 1.0))",
        "models/test_gan.py::test_the_best_discriminator_has_the_loss_log_4_minus_2_js",
    ),
    Mutant(
        "the sign of G's minimax loss", LOSSES,
        "return -ops.mean(ops.bce_with_logits(fake, 0.0))",
        "return ops.mean(ops.bce_with_logits(fake, 0.0))",
        "models/test_gan.py::test_the_two_losses_of_the_generator_pull_alike_and_one_saturates",
    ),
    Mutant(
        "G's loss on D's side", LOSSES,
        "return ops.mean(ops.bce_with_logits(fake, 1.0))",
        "return ops.mean(ops.bce_with_logits(fake, 0.0))",
        "models/test_gan.py::test_the_two_losses_of_the_generator_pull_alike_and_one_saturates",
    ),
    Mutant(
        "one step of D, whatever k", GAN,
        "[d] * self.discriminator_steps + [g]", "[d, g]",
        "models/test_gan.py::test_k_steps_of_the_discriminator_then_one_of_the_generator",
    ),
    Mutant(
        "R1 without its half", PENALTIES,
        "return 0.5 * ops.mean(ops.sum(", "return ops.mean(ops.sum(",
        "models/test_gan.py::test_the_penalties_of_a_linear_discriminator",
    ),
    Mutant(
        "a gradient penalty towards slope 0", PENALTIES,
        "ops.square(norms - 1.0)", "ops.square(norms)",
        "models/test_gan.py::test_the_penalties_of_a_linear_discriminator",
    ),
    # -- distributions and measures --------------------------------------------------------------
    Mutant(
        "the KL of normals in units of p", DIVERGENCES,
        "z = (p.mean - q.mean) / q.std", "z = (p.mean - q.mean) / p.std",
        "distributions/test_divergences.py::test_kl_of_normals_agrees_with_quadrature",
    ),
    Mutant(
        "the KL's sign", DIVERGENCES,
        "return _terms(p_, q_, log_ratio)", "return -_terms(p_, q_, log_ratio)",
        "distributions/test_divergences.py::test_kl_of_bernoulli_and_categorical_agree_with_enumeration",
    ),
    Mutant(
        "JS without its halves", DIVERGENCES,
        "return 0.5 * (_terms(p, m, of_p)", "return (_terms(p, m, of_p)",
        "distributions/test_divergences.py::test_js_of_bernoulli_is_that_of_its_two_outcomes",
    ),
    Mutant(
        "JS of arrays without its halves", "distributions/discrete.py",
        "kl_terms(2 * q, twice_m)) / 4", "kl_terms(2 * q, twice_m)) / 2",
        "distributions/test_discrete.py::test_discrete_agrees_with_exact_arithmetic",
    ),
    Mutant(
        "bins of the wrong width", "distributions/discretised.py",
        "self.low + self.step * (number - 0.5) - loc", "self.low + self.step * number - loc",
        "distributions/test_discretised.py::"
        "test_probabilities_are_finite_logarithms_and_sum_to_one",
    ),
    Mutant(
        "pairs across sets counted once", "metrics/kernel.py",
        "- 2 * across / (n * m)", "- across / (n * m)",
        "metrics/test_metrics.py::test_mmd_is_the_sum_over_pairs",
    ),
    Mutant(
        "1/n missing in the Parzen window", "metrics/parzen.py",
        "return found - log(n) -", "return found -",
        "metrics/test_parzen.py::test_on_the_line_it_is_scipys",
    ),
    Mutant(
        "a sum over directions", "metrics/transport.py",
        "y @ directions).mean()) ** 0.5", "y @ directions).sum()) ** 0.5",
        "metrics/test_metrics.py::test_sliced_wasserstein_of_a_shift",
    ),
    # -- optimisers and derivatives --------------------------------------------------------------
    Mutant(
        "Adam without the correction of its mean", OPTIMISERS,
        "step_size=lr / (1 - b1**self.steps),", "step_size=lr,",
        "optim/test_optimisers.py::test_float32_parameters_stay_float32_and_near",
    ),
    Mutant(
        "weight decay without the rate", OPTIMISERS,
        "return 1 - lr * self.weight_decay", "return 1 - self.weight_decay",
        "optim/test_optimisers.py::test_decoupled_decay_does_not_enter_the_moments",
    ),
    Mutant(
        "gradients that are added to those of the step before", "training/loop.py",
        "        optimizer.zero_grad()\n", "",
        "training/test_loop.py::test_a_step_is_the_descent_of_each_objective_in_turn",
    ),
    Mutant(
        "the labels of other rows", "training/loop.py",
        "tuple(a[rows] for a in self.data)", "tuple(a[rows - i] for i, a in enumerate(self.data))",
        "training/test_loop.py::test_a_batch_has_the_same_rows_of_every_array",
    ),
    Mutant(
        "an average that follows at the rate it should keep", "optim/averages.py",
        "return 1 - decay", "return decay",
        "optim/test_averages.py::test_the_average_is_the_weighted_sum_of_all_values",
    ),
    Mutant(
        "clipping to the direction alone", "optim/averages.py",
        "scale_all(m, arrays, limit / norm)", "scale_all(m, arrays, limit)",
        "optim/test_averages.py::test_the_norm_is_joint_and_the_scale_one",
    ),
    Mutant(
        "a cosine that rises", "optim/schedules.py",
        "0.5 * (1 + cos(", "0.5 * (1 - cos(",
        "optim/test_schedules.py::test_cosine_values",
    ),
    Mutant(
        "the sign of a derivative", "ops/elementwise.py",
        "lambda m, g, x: -g * m.sin(x)", "lambda m, g, x: g * m.sin(x)",
        "ops/test_ops.py::test_gradient",
    ),
    Mutant(
        "a factor of a derivative", "ops/composites.py",
        "log_var=lambda m, g, log_var: 0.5 * g * m.expm1(log_var)",
        "log_var=lambda m, g, log_var: g * m.expm1(log_var)",
        "ops/test_ops.py::test_gradient",
    ),
    # -- what the kernels compute ------------------------------------------------------------------
    Mutant(
        "a layer normalisation that takes the deviation of other rows", REFERENCE,
        "return (g - along) / deviation, of_modulation",
        "return (g - along) / deviation[::-1], of_modulation",
        "ops/test_composites.py::test_the_first_order_gradient_is_that_of_the_graph",
    ),
    Mutant(
        "a slope of SiLU without its second part", REFERENCE,
        "return s * (1.0 + m.clip(x, -FAR, FAR) * (1.0 - s))", "return s + 0.0 * x",
        "ops/test_composites.py::test_a_composite_is_its_composition",
    ),
    Mutant(
        "the divergence's part of a gradient left out", REFERENCE,
        "[g_z + g_kl * mean, of_log_var]", "[g_z, of_log_var]",
        "ops/test_composites.py::test_a_composite_is_its_composition",
    ),
    Mutant(
        "Adam's weight decay after its step", REFERENCE,
        "        p_ *= step.weight_decay_factor\n        p_ -= scratch\n",
        "        p_ -= scratch\n        p_ *= step.weight_decay_factor\n",
        "optim/test_optimisers.py::test_every_step_is_that_of_the_paper",
    ),
    Mutant(
        "an average of the parameters before the step", REFERENCE,
        "a += step.one_minus_average_decay * (p_ - a)",
        "a += step.one_minus_average_decay * (p_ + scratch - a)",
        "optim/test_averages.py::test_an_optimiser_moves_the_average_in_its_own_pass",
    ),
    # -- compiled steps --------------------------------------------------------------------------
    Mutant(
        "two arrays in one place at a time", "compile/plan.py",
        "if lives[o][0] <= dies and born <= lives[o][1]", "if lives[o][0] == born",
        "compile/test_compile.py::test_without_a_compiler_a_step_is_replayed_to_the_same_bits",
    ),
    Mutant(
        "an array in the place of its copy, although it is written before the copy is read",
        "compile/simplify.py", "if written[to][0] == i and fixed and", "if written[to][0] == i and",
        "compile/test_compile.py::test_a_copy_of_what_is_written_later_stays",
    ),
    Mutant(
        "the sum of a row read before it is complete", "compile/fuse.py",
        "phase=max(new.phase, old.phase + after)", "phase=max(new.phase, old.phase)",
        "compile/test_compile.py::test_sums_of_rows_are_complete_before_they_are_read",
    ),
    Mutant(
        "a draw that does not advance in a program", "random.py",
        "varying(self._claim)", "self._claim()",
        "compile/test_compile.py::test_a_number_that_changes_between_calls_is_seen",
    ),
    # -- graphs ----------------------------------------------------------------------------------
    Mutant(
        "a graph's memory from the pool of all", GRAPH,
        "        with self.cupy.cuda.using_allocator(self.pool.malloc):\n            yield", "        yield",
        "compile/test_graph.py::test_memory_that_a_graph_uses_is_not_handed_to_others",
    ),
    Mutant(
        "a number of the first run in every graph's", GRAPH,
        "kinds[number.field](value)", "kinds[number.field](vars(self).setdefault(str(number), value))",
        "compile/test_graph.py::test_a_number_that_changes_between_runs_is_seen",
    ),
    Mutant(
        "a look at the device in every run", GRAPH,
        "self.latch.runs % LOOKS == 0", "self.latch.runs % 1 == 0",
        "compile/test_graph.py::test_a_replayed_step_of_a_model_does_what_the_eager_one_does",
    ),
    Mutant(
        "a run on one stream that does not wait for that on another", GRAPH,
        "stream.wait_event(self.last.record())", "pass",
        "compile/test_graph.py::test_runs_on_one_stream_and_on_another_keep_their_order",
    ),
    Mutant(
        "collecting garbage while a graph is captured", GRAPH, "gc.disable()", "pass",
        "compile/test_graph.py::test_nothing_is_collected_while_it_is_captured",
    ),
    Mutant(
        "an update after a norm that is not finite", "compile/cuda.py",
        "guarded = bool(self.stops) and", "guarded = False and",
        "compile/test_graph.py::test_a_gradient_that_is_not_finite_changes_nothing_and_is_told_at_the_next_look",
    ),
    Mutant(
        "cuBLAS without a workspace of the graph's own", "kernels/cublas.py",
        "library.cublasSetWorkspace_v2(handle, space.data.ptr, space.nbytes)", "0",
        "compile/test_graph.py::test_eager_products_are_those_of_the_graph_to_the_bit",
    ),
    Mutant(
        "a sum read before all lanes are written", GPU_H,
        "    lanes[i] = x;\n    __syncthreads();", "    lanes[i] = x;",
        "compile/test_graph.py::test_sums_of_rows_columns_and_all_are_those_of_any_shape",
    ),
    Mutant(
        "the sum over all parts by the first block", GPU_H, "atomicAdd(arrived, 1u) == blocks - 1",
        "blockIdx.x == 0",
        "compile/test_graph.py::test_sums_of_rows_columns_and_all_are_those_of_any_shape",
    ),
    Mutant(
        "launches together of which one reads what another writes", "compile/fuse.py",
        "if fits and (apart or", "if fits and (True or",
        "compile/test_graph.py::test_a_replayed_step_of_a_model_does_what_the_eager_one_does",
    ),
    Mutant(
        "updates after one that ended early are forgotten", "training/graphs.py",
        "for t in rest:", "for t in rest[:0]:",
        "training/test_graphs.py::test_a_norm_too_large_for_float32_alone_is_computed_eagerly_and_the_rest_taken_again",
    ),
    Mutant(
        "an update is taken again with the counters of later ones", "training/graphs.py",
        "self._reset(first.counters)", "pass",
        "training/test_graphs.py::test_a_norm_too_large_for_float32_alone_is_computed_eagerly_and_the_rest_taken_again",
    ),
    Mutant(
        "the generator goes on training after a discriminator's update that ended early",
        "training/programs.py", 'Step(update, getattr(run, "latch", None))', "Step(update)",
        "training/test_graphs.py::test_a_batch_that_is_not_finite_leaves_the_parameters_as_they_were",
    ),
    Mutant(
        "a draw at every run of a sampler as one graph", "models/diffusion/denoiser.py",
        "        if rng is not None and sigma:\n            rng.state = stream.state",
        "        if rng is not None:\n            rng.state = stream.state",
        "models/diffusion/test_graph_sampling.py::test_the_generator_is_where_eager_sampling_leaves_it",
    ),
]  # fmt: skip
