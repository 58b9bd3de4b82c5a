(* SPDX-License-Identifier: BSD-3-Clause *)

(** * Sums of two floats that are rounded twice (kernels/instantiate.inc, vd_accumulate)

    Figueroa 1995: 2 p + 1 bits between are enough for an addition; the comments say 2 p + 2, which
    other operations need. Flocq has the proof. *)

From Coq Require Import Reals ZArith Lia.
From Flocq Require Import Core Double_rounding.
From Fastreg Require Import Float.
Local Open Scope R_scope.

Definition twice_is_once (prec emin prec' emin' : Z) :=
  forall x y, format prec emin x -> format prec emin y ->
  RN prec emin (RN prec' emin' (x + y)) = RN prec emin (x + y).

Lemma through (prec emin prec' emin' : Z) {P : Prec_gt_0 prec} {P' : Prec_gt_0 prec'} :
  (emin' <= emin)%Z -> (2 * prec + 1 <= prec')%Z -> twice_is_once prec emin prec' emin'.
Proof.
  intros He Hp x y Fx Fy.
  apply (round_round_plus_FLT radix2 emin prec emin' prec'); trivial;
    apply FLT_format_generic; trivial.
Qed.

Theorem f32_through_f64 : twice_is_once f32_prec f32_emin f64_prec f64_emin.
Proof. apply through; easy. Qed.

Theorem f16_through_f64 : twice_is_once f16_prec f16_emin f64_prec f64_emin.
Proof. apply through; easy. Qed.

Theorem bf16_through_f64 : twice_is_once bf16_prec bf16_emin f64_prec f64_emin.
Proof. apply through; easy. Qed.

Theorem f16_through_f32 : twice_is_once f16_prec f16_emin f32_prec f32_emin.
Proof. apply through; easy. Qed.

Theorem bf16_through_f32 : twice_is_once bf16_prec bf16_emin f32_prec f32_emin.
Proof. apply through; easy. Qed.
