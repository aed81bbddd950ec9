"""The exponential moving average of a network's weights, which is what is validated and saved."""

import copy

import torch


class WeightAverage:
    """A copy of a network, `module`, whose weights and buffers follow those of the network."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.module = copy.deepcopy(network)
        pairs = [
            (mine.detach(), theirs.detach())
            for ours, others in (
                (self.module.parameters(), network.parameters()),
                (self.module.buffers(), network.buffers()),
            )
            for mine, theirs in zip(ours, others, strict=True)
        ]
        self.numbers = [pair for pair in pairs if pair[0].is_floating_point()]
        self.counts = [pair for pair in pairs if not pair[0].is_floating_point()]  # of the batches that norms have seen

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Keep the share `decay` of what the average was, the rest comes from the network; 0 makes it a copy."""
        mine, theirs = (list(part) for part in zip(*self.numbers, strict=True))
        torch._foreach_lerp_(mine, theirs, 1 - decay)
        if self.counts:
            mine, theirs = (list(part) for part in zip(*self.counts, strict=True))
            kept, added = torch._foreach_mul(mine, decay), torch._foreach_mul(theirs, 1 - decay)
            torch._foreach_copy_(mine, torch._foreach_add(kept, added))
