"""Several quadratic problems at once, whose least points are known."""

import torch

from headstart.evaluation.lbfgs import minimise


def problems(num: int, width: int, condition: float):
    """Quadratics x'Ax/2 - b'x with eigenvalues from 1/condition to 1, and their least points (num, width)."""
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(num, width, width))[0]
    values = torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), width)
    matrix = basis @ (values[:, None] * basis.mT)
    point = torch.randn(num, width)
    return matrix, (matrix @ point[..., None])[..., 0], point


def objective_of(matrix, linear, seen, tolerance=1e-4):
    def objective(points, which):
        seen.append(which.tolist())
        product = (matrix[which] @ points[..., None])[..., 0]
        gradient = product - linear[which]
        value = (points * (product / 2 - linear[which])).sum(1).double()
        return value, gradient, gradient.norm(dim=1) < tolerance

    return objective


def test_each_of_several_ends_at_its_least_point_and_is_then_left_alone():
    matrix, linear, point = problems(5, 12, 30.0)
    start, seen = torch.zeros(5, 12), []
    start[3] = point[3]  # done from the start
    found = minimise(objective_of(matrix, linear, seen), start, 500)
    torch.testing.assert_close(found, point, atol=5e-3, rtol=0)
    assert torch.equal(found[3], point[3]) and all(3 not in which for which in seen[1:])
    assert len(seen[-1]) < 5 and len(seen) < 80


def test_together_equals_alone():
    matrix, linear, _ = problems(4, 8, 10.0)
    together = minimise(objective_of(matrix, linear, []), torch.zeros(4, 8), 500)
    for number in range(4):
        own = slice(number, number + 1)
        alone = minimise(objective_of(matrix[own], linear[own], []), torch.zeros(1, 8), 500)
        torch.testing.assert_close(together[own], alone, atol=1e-3, rtol=0)


def test_a_step_that_is_too_long_is_halved():
    """Curvature of 50: a first step of length 1 makes the value greater."""
    matrix, linear, point = problems(3, 6, 4.0)
    found = minimise(objective_of(50 * matrix, 50 * linear, [], tolerance=1e-2), torch.zeros(3, 6), 500)
    torch.testing.assert_close(found, point, atol=1e-2, rtol=0)


def test_where_nothing_becomes_smaller_it_ends():
    """Never done by its own word: rounding is what is left."""
    matrix, linear, point = problems(2, 5, 3.0)
    found = minimise(objective_of(matrix, linear, [], tolerance=0.0), torch.zeros(2, 5), 300)
    torch.testing.assert_close(found, point, atol=1e-3, rtol=0)
