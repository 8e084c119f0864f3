"""SZPO, stochastic zeroth-order policy optimization: directions, rules, step sizes.

The paper's step under the rules `known` and `sign`, with the file of each part.
`sample_directions` draws v. The default rule, `rules.regression`, fits all votes instead:

    perturb     v ~ N(0, I), θ′ = θ + μv              `szpo.training.perturb_policy`
    sample      a batch from each policy, N times     `szpo.training.sample_batches`
    ask         M evaluators vote on each pair        `szpo.training.ask_evaluators`
    invert      Δ̂ = (1/N) Σ_n σ⁻¹(k_n/M)              `szpo.aggregation.invert_and_average`
    or sign     s = sign(wins − losses)               `rules.sign`
    update      θ ← θ + α Δ̂/(cμ) v, or θ + α s v      `szpo.training.update_policy`

The arithmetic is pure, as ask and tell. Read `optimizer` first, then `rules.known`.
"""
