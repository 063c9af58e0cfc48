from drivers.explain import BrokenInput, Explainer, Json, frame_hint, placed, several
from meterhouse_snail.device import readings
from meterhouse_snail.frames import Parser, broken


def explain(stream: bytes) -> Json:
    frames = Parser().feed(stream)
    if not frames:
        _, offset, error = broken(stream)
        raise BrokenInput(placed(error, offset), hint=frame_hint(error, stream, "snail", "STX, address, Q or A, ETX"))
    return several(
        [
            ({"protocol": "snail", "address": frame.address, "answer": frame.is_answer}, readings(frame))
            for frame in frames
        ]
    )


EXPLAINERS = (
    Explainer(
        name="snail",
        title="Snail",
        help="Explain the frames of a snail.",
        explain=explain,
        is_sound=lambda stream: bool(Parser().feed(stream)),
    ),
)
