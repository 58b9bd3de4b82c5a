(* SPDX-License-Identifier: BSD-3-Clause *)

(** * The gradient in f32 lanes (kernels/points.inc, fr_gradient_point_narrow)

    [slope] and [step] are rounded to f32, then comes one fused multiply-add. Both terms have one
    sign, so it is enough to speak of magnitudes: g = slope |x| + step. *)

From Coq Require Import Reals Psatz ZArith.
From Flocq Require Import Core.
From Fastreg Require Import Float Rounding.
Local Open Scope R_scope.

(** ** What C states *)

(** f16: the ends are the result times 1 -+ 2^gradient_factor. *)
Definition gradient_factor := (-22)%Z.
(** bf16: the last places of f32 between the result and a tie. *)
Definition gradient_places := 5%Z.
Definition gradient_places_twice := 10%Z.

Notation u32 := (/ 16777216).

(** Three roundings lose 2^-23 (1 + 2^-25) of a result that does not underflow; C's comment has
    2^-23 (1 + 2^-24). *)
Theorem gradient_error (slope step slope' step' x y : R) :
  0 <= slope -> 0 <= step -> 0 <= x ->
  Rabs (slope' - slope) <= u32 * slope -> Rabs (step' - step) <= u32 * step ->
  Rabs (y - (slope' * x + step')) <= u32 * (slope' * x + step') ->
  let g := slope * x + step in
  Rabs (y - g) <= / 8388608 * (1 + / 33554432) * g.
Proof.
  intros A B X Ha Hb Hy g. apply Rabs_le_inv in Ha. apply Rabs_le_inv in Hb. apply Rabs_le_inv in Hy.
  assert (L : slope' * x <= (1 + u32) * slope * x) by (apply Rmult_le_compat_r; lra).
  assert (M : (1 - u32) * slope * x <= slope' * x) by (apply Rmult_le_compat_r; lra).
  assert (P : 0 <= slope * x) by (apply Rmult_le_pos; lra).
  unfold g. apply Rabs_le. split; lra.
Qed.

(** The true gradient lies between the ends as C computes them, roundings of their own included; if
    both round alike to f16, that is its rounding. *)
Theorem gradient_ends (g y below above : R) :
  0 <= g -> Rabs (y - g) <= / 8388608 * (1 + / 33554432) * g ->
  Rabs (below - y * (1 - bpow radix2 gradient_factor)) <= u32 * (y * (1 - bpow radix2 gradient_factor)) ->
  Rabs (above - y * (1 + bpow radix2 gradient_factor)) <= u32 * (y * (1 + bpow radix2 gradient_factor)) ->
  below <= g <= above.
Proof.
  change (bpow radix2 gradient_factor) with (/ 4194304). intros G Hy Hb Ha.
  apply Rabs_le_inv in Hy. apply Rabs_le_inv in Hb. apply Rabs_le_inv in Ha. split; lra.
Qed.

Theorem gradient_f16 (g y below above : R) :
  0 <= g -> Rabs (y - g) <= / 8388608 * (1 + / 33554432) * g ->
  Rabs (below - y * (1 - bpow radix2 gradient_factor)) <= u32 * (y * (1 - bpow radix2 gradient_factor)) ->
  Rabs (above - y * (1 + bpow radix2 gradient_factor)) <= u32 * (y * (1 + bpow radix2 gradient_factor)) ->
  Float.RN f16_prec f16_emin below = Float.RN f16_prec f16_emin above ->
  Float.RN f16_prec f16_emin g = Float.RN f16_prec f16_emin above.
Proof.
  intros G Hy Hb Ha E. apply (ends_agree _ _ below); [| exact E]. now apply (gradient_ends g y).
Qed.

(** bf16: a normal y in [2^k, 2^(k + 1)] has last places of 2^(k - 23); the true gradient is fewer
    than 3 of them away, so no tie that is at least [gradient_places] away lies between. 3 would
    do. *)
Theorem gradient_bf16 (g y : R) (k : Z) :
  0 <= g -> Rabs (y - g) <= / 8388608 * (1 + / 33554432) * g -> y <= bpow radix2 (k + 1) ->
  Rabs (y - g) < 3 * bpow radix2 (k - 23) /\ 3 <= IZR gradient_places
  /\ gradient_places_twice = (2 * gradient_places)%Z.
Proof.
  intros G Hy Hk. split; [| split; [unfold gradient_places; lra | reflexivity]].
  apply Rabs_le_inv in Hy as [H1 H2].
  assert (P := bpow_gt_0 radix2 (k - 23)).
  assert (Q : bpow radix2 (k + 1) = 16777216 * bpow radix2 (k - 23)).
  { change 16777216 with (bpow radix2 24). rewrite <- bpow_plus. f_equal. ring. }
  apply Rabs_lt. split; lra.
Qed.
