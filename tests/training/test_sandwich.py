import numpy as np
import pytest
import torch
from torch.nn import functional

from superserve.supernet.actuator import apply, bind
from superserve.training import sandwich
from superserve.training.sandwich import accumulate_gradients, students
from support.supernets import images, small_network

LABELS = torch.tensor([0, 1, 2, 3])


def test_students_are_the_smallest_and_random_ones() -> None:
    space = small_network().space
    chosen = list(students(space, np.random.default_rng(1), 3))
    rng = np.random.default_rng(1)
    assert chosen == [space.smallest(), *(space.sample(rng) for _ in range(3))]


def test_gradients_are_the_sum_of_labels_and_distillation() -> None:
    """The rule written out: cross-entropy of the largest with labels, of the others with its detached classes."""
    network, x = small_network().requires_grad_(requires_grad=True), images(4)
    accumulate_gradients(network, x, LABELS, rng=np.random.default_rng(2), random_subnets=1)
    found = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}

    twin = small_network().requires_grad_(requires_grad=True)
    space, rng = twin.space, np.random.default_rng(2)
    apply(bind(twin, space.largest(), None))
    logits = twin(x)
    total = functional.cross_entropy(logits, LABELS)
    target = functional.softmax(logits, dim=1).detach()
    for spec in (space.smallest(), space.sample(rng)):
        apply(bind(twin, spec, None))
        total = total - (target * functional.log_softmax(twin(x), dim=1)).sum(1).mean()
    torch.autograd.backward(total)
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-5)


def test_returns_the_largest_subnets_loss() -> None:
    network, x = small_network().requires_grad_(requires_grad=True), images(4)
    loss = accumulate_gradients(network, x, LABELS, rng=np.random.default_rng(0), random_subnets=0)
    apply(bind(network, network.space.largest(), None))
    assert loss == pytest.approx(functional.cross_entropy(network(x), LABELS).item(), rel=1e-5)


def test_steps_lower_the_loss_of_every_kind_of_subnet() -> None:
    network, x, rng = small_network().requires_grad_(requires_grad=True), images(4), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    ends = (network.space.smallest(), network.space.largest())

    def losses() -> list[float]:
        found = []
        for spec in ends:
            apply(bind(network, spec, None))
            found.append(functional.cross_entropy(network(x), LABELS).item())
        return found

    before = losses()
    for _ in range(15):
        optimizer.zero_grad()
        sandwich.accumulate_gradients(network, x, LABELS, rng=rng)
        optimizer.step()
    assert all(late < 0.7 * early for early, late in zip(before, losses(), strict=True))
