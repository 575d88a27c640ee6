"""resnet50 on an NVIDIA GPU: images per second of inference and training, ours (channels last, bfloat16, compiled)
beside torchvision's."""

from __future__ import annotations

from functools import partial

from layerwise.bench.base import Case, Row, Side, Spec
from layerwise.bench.side import Measurement

TASKS = ("inference", "training")


def get_skip_reason() -> str:
    """Return why this machine cannot run the case: it has no GPU."""
    import torch

    return "" if torch.cuda.is_available() else "there is no CUDA device here"


def measure(task: str, side: str, spec: Spec) -> Measurement:
    """Time one side: forward, or a whole training step with SGD."""
    import torch

    from layerwise.bench import images

    spec = {**spec, "model": "resnet50"}
    is_ours = side == "ours"
    form = torch.channels_last if is_ours else torch.contiguous_format
    model = (images.build_ours(spec) if is_ours else images.build_torchvision(spec)).cuda()
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=form)
    x = images.make_images(spec).cuda().contiguous(memory_format=form)
    y = torch.arange(len(x), device="cuda") % images.CLASSES
    forward = torch.compile(model) if is_ours else model
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=is_ours or None)

    def infer() -> None:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=is_ours):
            forward(x)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=is_ours):
            loss = torch.nn.functional.cross_entropy(forward(x), y)
        loss.backward()
        optimizer.step()

    model.train(task == "training")
    speed = images.measure_speed(step if task == "training" else infer, spec, synchronize=torch.cuda.synchronize)
    return Measurement(speed, facts={"device": torch.cuda.get_device_name()})


SIDES: dict[str, Side] = {
    f"{task}, {side}": partial(measure, task, side) for task in TASKS for side in ("ours", "torchvision")
}

CASE = Case(
    name="cuda",
    unit="images/s",
    spec={"batch": 128},
    sides=SIDES,
    rows=tuple(
        Row(f"{task}: torchvision, float32 eager", f"{task}, torchvision", None, ours=f"{task}, ours") for task in TASKS
    ),
    note="resnet50, 224×224, the same weights; ours channels last, bfloat16 products, compiled, fused SGD; theirs "
    "as documented",
    timeout=900,
    skip_reason=get_skip_reason,
)
