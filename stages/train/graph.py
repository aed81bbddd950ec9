"""The step of training as one CUDA graph: recorded once, then started with one launch in place of some hundreds."""

from collections.abc import Callable

import torch

from detector.errors import UserError, is_out_of_memory

WARM_UP = 3  # steps taken before the recording: libraries set themselves up, the optimizer makes its moments

Rate = float | torch.Tensor
Step = Callable[[torch.Tensor, torch.Tensor, Rate], tuple[torch.Tensor, torch.Tensor]]


class CapturedStep:
    """A step as `make_step` returns it, and called like it: the first few times it is taken as it is, then recorded as
    a CUDA graph, which is replayed from there on.

    A graph computes on the same addresses each time: so images, targets and rate are copied to tensors that keep their
    place, and what a call returns holds until the next. Random numbers go on as they would without a graph. Without a
    GPU there is nothing to record, and each step is like the first.
    """

    def __init__(self, step: Step, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> None:
        """generator: the one that the step draws from, beside torch's own; it may be seeded anew between two steps."""
        self.step, self.optimizer, self.generator = step, optimizer, generator
        self.rate = torch.zeros((), device=generator.device)  # float32: what the fused optimizers of CUDA take
        self.taken = 0

    def __call__(self, pixels: torch.Tensor, y: torch.Tensor, rate: Rate) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.taken:
            self.pixels, self.y = torch.empty_like(pixels), torch.empty_like(y)
        self.pixels.copy_(pixels)
        self.y.copy_(y)
        self.rate.fill_(rate)
        self.taken += 1
        if self.generator.device.type == "cpu":
            return self.step(self.pixels, self.y, self.rate)
        if self.taken == 1:
            self.stream = torch.cuda.Stream()
        if self.taken <= WARM_UP:
            return self._beside()
        if self.taken == WARM_UP + 1:
            self._capture()
        self.graph.replay()
        return self.result

    def _beside(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Take the step on the stream that is to be recorded: CUDA records no other than a side stream."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            result = self.step(self.pixels, self.y, self.rate)
        torch.cuda.current_stream().wait_stream(self.stream)
        return result

    def _capture(self) -> None:
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(self.generator)  # torch's own is registered already
        self.optimizer.zero_grad()  # so that gradients get their place in the memory of the graph
        self._set_capturable(True)
        try:
            with torch.cuda.graph(self.graph, stream=self.stream):
                self.result = self.step(self.pixels, self.y, self.rate)
        except RuntimeError as error:
            cause = error.__context__ or error  # the end of the recording complains too, of its failure alone
            if isinstance(cause, Exception) and is_out_of_memory(cause):
                raise cause from None
            raise UserError(
                f"the step of this model cannot be recorded as a CUDA graph ({cause}): set train.cuda_graph to false"
            ) from error
        self._set_capturable(False)

    def _set_capturable(self, value: bool) -> None:
        """torch wants it set while it records AdamW, the fused one too, and warns of it at any other time."""
        for group in self.optimizer.param_groups:
            group["capturable"] = value
