"""resnet50 on an NVIDIA GPU: images a second of inference and training, ours (channels last, bfloat16, compiled)
beside torchvision's."""

from __future__ import annotations

from functools import partial

from layerwise.bench.base import Case, Row, Side, Spec
from layerwise.bench.process import Measure

WAYS = ("inference", "training")


def lacking() -> str:
    """Say that there is no GPU."""
    import torch

    return "" if torch.cuda.is_available() else "there is no CUDA device here"


def run(way: str, side: str, spec: Spec) -> Measure:
    """Time one side: forward, or a whole training step with SGD."""
    import torch

    from layerwise.bench import images

    spec = {**spec, "model": "resnet50"}
    mine = side == "ours"
    form = torch.channels_last if mine else torch.contiguous_format
    model = (images.ours(spec) if mine else images.theirs(spec)).cuda()
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=form)
    x = images.images(spec).cuda().contiguous(memory_format=form)
    y = torch.arange(len(x), device="cuda") % images.CLASSES
    forward = torch.compile(model) if mine else model
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=mine or None)

    def infer() -> None:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=mine):
            forward(x)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=mine):
            loss = torch.nn.functional.cross_entropy(forward(x), y)
        loss.backward()
        optimizer.step()

    model.train(way == "training")
    speed = images.timed(step if way == "training" else infer, spec, wait=torch.cuda.synchronize)
    return Measure(speed, facts={"device": torch.cuda.get_device_name()})


SIDES: dict[str, Side] = {f"{way}, {side}": partial(run, way, side) for way in WAYS for side in ("ours", "torchvision")}

CASE = Case(
    name="cuda",
    unit="images/s",
    spec={"batch": 128},
    sides=SIDES,
    rows=tuple(
        Row(f"{way}: torchvision, float32 eager", f"{way}, torchvision", None, ours=f"{way}, ours") for way in WAYS
    ),
    note="resnet50, 224×224, the same weights; ours channels last, bfloat16 products, compiled, fused SGD; theirs "
    "as documented",
    timeout=900,
    lacking=lacking,
)
