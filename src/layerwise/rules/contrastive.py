"""Contrastive divergence (E13): ΔW = η(⟨hvᵀ⟩₀ − ⟨hvᵀ⟩ₖ), Δa = η(⟨v⟩₀ − ⟨v⟩ₖ), Δb = η(⟨h⟩₀ − ⟨h⟩ₖ).

``⟨⟩ₖ`` is taken after k steps of Gibbs sampling, from the data (CD-k, Hinton 2002) or from chains that persist
(persistent, Tieleman 2008).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from layerwise.data.batch import Batch
from layerwise.errors import UsageError
from layerwise.kernels.bernoulli import bernoulli
from layerwise.nn.rbm import RBM, Boltzmann
from layerwise.recipe import Fraction, NonNegativeFloat, PositiveInt
from layerwise.rules.base import Context, Entry, Step, Verdict
from layerwise.runtime import rng


class ContrastiveOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``k`` Gibbs steps; ``persistent`` chains, else from the data; ``lr`` η; ``final_lr_ratio`` the factor that
    the rate falls to, linearly; ``l2`` λ of E08 on W."""

    lr: NonNegativeFloat = 0.05
    k: PositiveInt = 1
    persistent: bool = True
    final_lr_ratio: Fraction = 0.1
    l2: NonNegativeFloat = 0.0


class ContrastiveDivergence:
    """The rule ``contrastive``, for a restricted Boltzmann machine or a layer of a deep belief network.

    The step's total is the free-energy gap Σ[F(v₀) − F(vₖ)], whose gradient (vₖ held fixed) is the update.
    """

    Options = ContrastiveOptions

    def __init__(self, context: Context, options: ContrastiveOptions) -> None:
        if not (hasattr(context.model, "machine") and hasattr(context.model, "to_visible")):
            raise UsageError(
                "the contrastive rule trains restricted Boltzmann machines",
                expected="rbm, or a greedy stage of dbn",
                received=type(context.model).__name__,
            )
        self.context, self.options = context, options
        self.model = cast(Boltzmann, context.model)
        self.rbm: RBM = self.model.machine()
        device, share = self.rbm.weight.device, context.world.get_slice(context.batch_size)
        # On the CPU a compiled counter hash draws: torch.rand and a comparison took a tenth of the step there.
        self.seed, self.calls = rng.derive_seed("contrastive", context.seed, context.world.rank), 0
        self.random = rng.make_generator("contrastive", context.seed, context.world.rank, device=device)
        hidden = self.rbm.hidden_bias.shape[0]
        self.chains = torch.zeros(share.stop - share.start + 1, hidden, dtype=self.rbm.weight.dtype, device=device)

    @torch.no_grad()
    def step(self, batch: Batch, progress: float) -> Step:
        """Move the weights along the difference of statistics between data and chains."""
        data, rbm = self.model.to_visible(batch.input_tensor), self.rbm
        count, world = len(data), self.context.world
        data_input = rbm.hidden_input(data)  # (N, H)
        data_hidden = torch.sigmoid(data_input)
        start = self.chains[:count] if self.options.persistent else self._sample(data_hidden)
        chain, chain_input = self._gibbs(start)
        chain_hidden = torch.sigmoid(chain_input)
        if self.options.persistent:
            self.chains[:count] = self._sample(chain_hidden)
        visible = (data - chain).sum(0)  # Σ(v₀ − vₖ), for the gap and for the bias
        gap = -(visible @ rbm.visible_bias) - (F.softplus(data_input).sum() - F.softplus(chain_input).sum())
        rate = self.options.lr * (1 + (self.options.final_lr_ratio - 1) * progress)
        if world.size == 1:
            self._update(rate / max(1, count), data, data_hidden, chain, chain_hidden, visible)
        else:
            self._update_over_ranks(rate, data, data_hidden, chain, chain_hidden, visible)
        return Step(gap, float(count), {"free-energy gap": gap})

    def _gibbs(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Run k steps from hidden states; return visible states (N, D) and the hidden units' input from them (N, H)."""
        for step in range(self.options.k):
            visible = self._sample(self.rbm.visible(hidden))
            total = self.rbm.hidden_input(visible)
            if step + 1 < self.options.k:
                hidden = self._sample(torch.sigmoid(total))
        return visible, total

    def _sample(self, probability: Tensor) -> Tensor:
        """Draw 0 or 1 with the probabilities given."""
        if probability.device.type == "cpu":
            self.calls += 1
            return bernoulli(probability, seed=self.seed, call=self.calls)
        uniform = torch.rand(
            probability.shape, generator=self.random, dtype=probability.dtype, device=probability.device
        )
        return uniform.lt_(probability)

    def _update(self, rate: float, v0: Tensor, h0: Tensor, vk: Tensor, hk: Tensor, visible: Tensor) -> None:
        """Add rate·(statistics of the data − statistics of the chains), in place, without a temporary (H, D)."""
        rbm = self.rbm
        if self.options.l2:
            rbm.weight.mul_(1 - 2 * self.options.l2 * rate * len(v0))
        rbm.weight.addmm_(h0.t(), v0, alpha=rate).addmm_(hk.t(), vk, alpha=-rate)
        rbm.visible_bias.add_(visible, alpha=rate)
        rbm.hidden_bias.add_((h0 - hk).sum(0), alpha=rate)

    def _update_over_ranks(self, rate: float, v0: Tensor, h0: Tensor, vk: Tensor, hk: Tensor, visible: Tensor) -> None:
        """Do the same with statistics summed over all ranks."""
        rbm = self.rbm
        count = rbm.weight.new_tensor([float(len(v0))])
        statistics = [h0.t() @ v0 - hk.t() @ vk, visible, (h0 - hk).sum(0)]
        self.context.world.reduce([*statistics, count])
        if self.options.l2:
            rbm.weight.mul_(1 - 2 * self.options.l2 * rate)
        for parameter, statistic in zip((rbm.weight, rbm.visible_bias, rbm.hidden_bias), statistics, strict=True):
            parameter.add_(statistic, alpha=rate / float(count))

    def end_epoch(self) -> Verdict:
        """Never finish: sampling has no end of its own."""
        return Verdict(False)

    def evaluation_weights(self) -> AbstractContextManager[object]:
        """Return a context that changes nothing."""
        return nullcontext()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the chains and the sampler's state."""
        return {"chains": self.chains, "random": self.random.get_state(), "calls": torch.tensor(self.calls)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the chains and the sampler's state."""
        self.chains.copy_(state["chains"])
        self.random.set_state(state["random"].cpu())
        self.calls = int(state["calls"])


RULE = Entry(ContrastiveDivergence, ContrastiveDivergence.Options)
