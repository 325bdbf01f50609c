"""Multinomial logistic regression by L-BFGS in coordinates where the problem is well conditioned.

Own code for its speed: scikit-learn's `LogisticRegression`, the tests' oracle, minimises the same objective in the
features' own coordinates and in float64 (benchmarks/probe.py compares).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear, one_hot

from headstart.evaluation.lbfgs import minimise

# How far above its least value the objective may end, relative to itself
TOLERANCE = 1e-5
MAX_ITERATIONS = 10_000
SMALL = 2**18  # values of all features: an accelerator would wait for launches
MANY = 2**16  # weights beyond which scipy's L-BFGS spends its time beside the problem


def regularisation_path(
    features: np.ndarray, labels: np.ndarray, strengths: Sequence[float], device: torch.device
) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """Yield C, weight (K, D) and bias (K,) float64 for each strength C, ascending; labels 0 to K-1 all occur.

    features (N, D) float, labels (N,) int64. Each fit minimises scikit-learn's objective, C * sum of losses + |W|^2 / 2
    with a free bias, to a relative 1e-5 (of two classes the penalised W is the one row of log-odds), and starts from
    the one before; on an accelerator all are made at once. There, too, a small problem is the CPU's.
    """
    if features.size < SMALL:
        device = torch.device("cpu")
    problem = _Whitened(torch.from_numpy(features).to(device), torch.from_numpy(labels).to(device))
    shape, ascending = (problem.num_classes, problem.x_NR.shape[1] + 1), sorted(strengths)
    point = np.zeros(shape)
    if _at_once(device):
        points = problem.minimise_at_once(ascending, np.stack([point] * len(ascending)))
        yield from ((strength, *problem.original(each)) for strength, each in zip(ascending, points, strict=True))
        return
    for strength in ascending:
        if point.size > MANY:
            point = problem.minimise_at_once([strength], point[None])[0]
        else:
            point = problem.minimise(strength, point)
        yield strength, *problem.original(point)


def _at_once(device: torch.device) -> bool:
    return device.type != "cpu"


class _Whitened:
    """The objective in the eigenbasis of the centred features' covariance, where each direction's curvature is bounded.

    Böhning (1992, Multinomial logistic regression algorithm, Ann. Inst. Statist. Math. 44): whatever the weights, the
    losses' Hessian is at most (I - 11'/K) / 2 times X'X. Over sqrt(C * eigenvalue / 2 + penalty) in each direction that
    bound is the identity; centred features leave none between weights and bias. Points are (K, R + 1), the bias last;
    R directions span the rows, and the minimiser's weights lie in that span.
    """

    def __init__(self, x_ND: Tensor, labels_N: Tensor) -> None:
        self.centre_D = x_ND.mean(0, dtype=torch.float64)
        x_ND = (x_ND - self.centre_D).float()
        if len(x_ND) < x_ND.shape[1]:
            _, singular_values, basis_RD = torch.linalg.svd(x_ND.double(), full_matrices=False)
            self.eigenvalues_R, self.basis_DR = singular_values.square(), basis_RD.T
        else:
            eigenvalues, self.basis_DR = torch.linalg.eigh((x_ND.T @ x_ND).double())
            self.eigenvalues_R = eigenvalues.clamp_min(0)
        self.x_NR = x_ND @ self.basis_DR.float()
        self.labels_N1 = labels_N[:, None]
        self.num_classes = int(labels_N.max()) + 1
        self.target_NK = one_hot(labels_N, self.num_classes).float()
        self.penalty = 2.0 if self.num_classes == 2 else 1.0  # rows -w/2 and w/2: |w|^2 = 2 |W|^2

    def minimise(self, strength: float, start: np.ndarray) -> np.ndarray:
        """Return the minimiser, from a point to start at."""
        from scipy.optimize import OptimizeResult, minimize

        curvature = np.append(self.eigenvalues_R.cpu().numpy(), len(self.labels_N1)) * (strength / 2)
        curvature[:-1] += self.penalty
        scale = curvature**-0.5
        converged = False

        def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
            nonlocal converged
            value, gradient = self._value(strength, point.reshape(start.shape) * scale)
            scaled = gradient * scale
            # What is left to gain: in W at most this by the penalty's convexity; the bias, free, goes by a hundredth of
            # its bound's curvature
            left = np.square(gradient[:, :-1]).sum() / (2 * self.penalty) + 50 * np.square(scaled[:, -1]).sum()
            converged = bool(left <= TOLERANCE * value)
            return value, scaled.ravel()

        def stop_when_converged(intermediate_result: OptimizeResult) -> None:
            if converged:
                raise StopIteration

        limits = {"maxiter": MAX_ITERATIONS, "maxfun": 2 * MAX_ITERATIONS, "maxcor": 20, "ftol": 0, "gtol": 0}
        first = (start / scale).ravel()
        found = minimize(objective, first, jac=True, method="L-BFGS-B", callback=stop_when_converged, options=limits)
        return found.x.reshape(start.shape) * scale

    def minimise_at_once(self, strengths: Sequence[float], starts: np.ndarray) -> np.ndarray:
        """Return the minimisers (P, K, R + 1) at P strengths, from points to start at."""
        given = torch.tensor(strengths, dtype=torch.float64, device=self.x_NR.device)
        curvature = torch.cat([self.eigenvalues_R, self.eigenvalues_R.new_tensor([len(self.labels_N1)])])
        curvature = given[:, None] / 2 * curvature
        curvature[:, :-1] += self.penalty
        scale = curvature.rsqrt().float()[:, None]  # (P, 1, R + 1)

        def objective(points: Tensor, which: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            value, gradient = self._values(given[which], points.view(len(which), *starts.shape[1:]) * scale[which])
            left = _squares(gradient[..., :-1]) / (2 * self.penalty)
            scaled = gradient.mul_(scale[which])
            left += 50 * _squares(scaled[..., -1:])
            return value, scaled.flatten(1), left <= TOLERANCE * value

        first = (torch.from_numpy(starts).to(given.device) / scale).flatten(1).float()
        found = minimise(objective, first, MAX_ITERATIONS)
        return (found.view(starts.shape) * scale).double().cpu().numpy()

    def _values(self, strengths: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """`_value` of several strengths (A,) at once: float64 (A,), and gradients (A, K, R + 1) float32."""
        weights, num = points[..., :-1], len(strengths)
        logits = torch.addmm(points[..., -1].flatten(), self.x_NR, weights.flatten(0, 1).T)
        log_p = logits.view(len(self.x_NR), num, -1).log_softmax(2)
        labels = self.labels_N1[:, None].expand(-1, num, -1)
        loss = -log_p.gather(2, labels)[..., 0].sum(0, dtype=torch.float64)
        slope = log_p.exp_().sub_(self.target_NK[:, None]).flatten(1)
        gradient = torch.empty_like(points)
        gradient[..., :-1] = (slope.T @ self.x_NR).view(weights.shape)
        gradient[..., -1] = slope.sum(0).view(num, -1)
        gradient *= strengths.float()[:, None, None]
        gradient[..., :-1] += self.penalty * weights
        return strengths * loss + self.penalty / 2 * _squares(weights), gradient

    def original(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return weight (K, D) and bias (K,) for the features as they came."""
        weight = point[:, :-1] @ self.basis_DR.cpu().numpy().T
        return weight, point[:, -1] - weight @ self.centre_D.cpu().numpy()

    def _value(self, strength: float, point: np.ndarray) -> tuple[float, np.ndarray]:
        """C * sum of losses + penalty, and its gradient (K, R + 1)."""
        weight, bias = torch.from_numpy(point).to(self.x_NR.device).split([point.shape[1] - 1, 1], 1)
        log_p = linear(self.x_NR, weight.float(), bias[:, 0].float()).log_softmax(1)
        loss = -log_p.gather(1, self.labels_N1).sum(dtype=torch.float64)
        slope = log_p.exp_().sub_(self.target_NK)
        # K rows: the transposed product is several times slower
        gradient = torch.cat([slope.T @ self.x_NR, slope.sum(0)[:, None]], 1).double() * strength
        gradient[:, :-1] += self.penalty * weight
        return strength * float(loss) + self.penalty / 2 * float(weight.square().sum()), gradient.cpu().numpy()


def _squares(values: Tensor) -> Tensor:
    """Sums of squares, (A, K, R) -> (A,) float64: of float32 rows, then of their sums."""
    return torch.linalg.vecdot(values, values).sum(1, dtype=torch.float64)
