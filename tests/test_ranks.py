from lora_lab.ranks import last_ranks
from lora_lab.records import StepRecord


def test_the_last_ranks_are_those_of_the_last_allocation():
    told = [None, {"a": 3}, {"a": 2}, None]
    records = [
        StepRecord(step, loss=1.0, learning_rate=1e-3, grad_norm=1.0, tokens=8, ranks=ranks)
        for step, ranks in enumerate(told, start=1)
    ]
    assert last_ranks(iter(records)) == {"a": 2}
    assert last_ranks(records[:1]) is None
