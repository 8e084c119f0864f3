"""SZPO, stochastic zeroth-order policy optimization: directions, rules, step sizes.

The paper's step under the rules `known` and `sign`, with the file of each part.
`sample_directions` draws v. The default rule, `regression`, fits all votes instead:

    perturb     v ~ N(0, I), θ′ = θ + μv              `szpo.runs.sample_batches`
    sample      a batch from each policy, N times     `szpo.runs.sample_batches`
    ask         M evaluators vote on each pair        `szpo.runs.controller`
    invert      Δ̂ = (1/N) Σ_n σ⁻¹(k_n/M)              `links`
    or sign     s = sign(wins − losses)               `known_and_sign`
    update      θ ← θ + α Δ̂/(cμ) v, or θ + α s v      `szpo.runs.update_policy`

The arithmetic is pure, as ask and tell. Read `optimizer` first, then `known_and_sign`.
"""
