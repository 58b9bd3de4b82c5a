(* SPDX-License-Identifier: BSD-3-Clause *)

(** * What is taken for granted of floating-point arithmetic

    A format has [prec] bits and no number below 2^[emin]; [RN] rounds a real number to the nearest
    one of it, ties to even. Flocq defines both. There is no largest number here: every theorem
    speaks of calculations that did not overflow, and what C does about overflow is said where the
    theorem is used.

    Every other file of this folder is about real numbers and [RN]. That C's [+], [*], [fma] and
    conversions are [RN] of the exact result is assumed: of the compiler, of the processor, and of
    the rounding mode, which the library sets to nearest, with subnormal numbers, before each pass. *)

From Coq Require Import Reals Psatz ZArith.
From Flocq Require Import Core Plus_error Relative.
Local Open Scope R_scope.

Section Float.
Context {prec emin : Z}.
Context {prec_gt_0_ : Prec_gt_0 prec}.

Definition format := generic_format radix2 (FLT_exp emin prec).
Definition RN := round radix2 (FLT_exp emin prec) ZnearestE.

(** The unit of rounding, and what is lost near zero. *)
Definition u := bpow radix2 (- prec).
Definition eta := bpow radix2 (emin - 1).

Lemma u_pos : 0 < u.
Proof. apply bpow_gt_0. Qed.

Lemma eta_pos : 0 < eta.
Proof. apply bpow_gt_0. Qed.

Lemma u_le_half : u <= 1 / 2.
Proof.
  unfold u. change (1 / 2) with (1 * / 2). rewrite Rmult_1_l.
  change (/ 2) with (bpow radix2 (-1)). apply bpow_le.
  unfold Prec_gt_0 in prec_gt_0_. lia.
Qed.

Lemma u_ro_is_u : u_ro radix2 prec = u.
Proof.
  unfold u_ro, u. rewrite bpow_plus. change (bpow radix2 1) with 2. lra.
Qed.

Lemma eta_is : / 2 * bpow radix2 emin = eta.
Proof.
  unfold eta. replace (emin - 1)%Z with (emin + -1)%Z by ring.
  rewrite bpow_plus. change (bpow radix2 (-1)) with (/ 2). ring.
Qed.

Lemma format_RN x : format (RN x).
Proof. apply generic_format_round; typeclasses eauto. Qed.

Lemma RN_format x : format x -> RN x = x.
Proof. intros H. apply round_generic; [typeclasses eauto | exact H]. Qed.

Lemma RN_le x y : x <= y -> RN x <= RN y.
Proof. intros H. apply round_le; [typeclasses eauto | typeclasses eauto | exact H]. Qed.

Lemma RN_ge_0 x : 0 <= x -> 0 <= RN x.
Proof.
  intros H. rewrite <- (RN_format 0); [now apply RN_le | apply generic_format_0].
Qed.

Lemma RN_opp x : RN (- x) = - RN x.
Proof. apply round_NE_opp. Qed.

Lemma RN_le_format x y : format y -> x <= y -> RN x <= y.
Proof. intros F H. rewrite <- (RN_format y F). now apply RN_le. Qed.

Lemma RN_ge_format x y : format x -> x <= y -> x <= RN y.
Proof. intros F H. rewrite <- (RN_format x F). now apply RN_le. Qed.

Lemma format_opp x : format x -> format (- x).
Proof. apply generic_format_opp. Qed.

Lemma format_abs x : format x -> format (Rabs x).
Proof. apply generic_format_abs. Qed.

(** Any real number: a relative error of [u], and [eta] near zero. *)
Lemma RN_error x : Rabs (RN x - x) <= u * Rabs x + eta.
Proof.
  destruct (error_N_FLT radix2 emin prec ltac:(exact prec_gt_0_) (fun z => negb (Z.even z)) x)
    as (e & f & He & Hf & _ & H).
  unfold RN. rewrite H.
  replace (x * (1 + e) + f - x) with (e * x + f) by ring.
  apply Rle_trans with (1 := Rabs_triang _ _). rewrite Rabs_mult.
  apply Rplus_le_compat; [| rewrite <- eta_is; exact Hf].
  apply Rmult_le_compat_r; [apply Rabs_pos |].
  rewrite <- u_ro_is_u. exact He.
Qed.

(** The sum of two numbers of the format loses nothing near zero, *)
Lemma RN_add_error a b : format a -> format b -> Rabs (RN (a + b) - (a + b)) <= u * Rabs (a + b).
Proof.
  intros Fa Fb.
  destruct (FLT_plus_error_N_ex radix2 emin prec (fun z => negb (Z.even z)) a b Fa Fb) as (e & He & H).
  unfold RN. rewrite H.
  replace ((a + b) * (1 + e) - (a + b)) with (e * (a + b)) by ring.
  rewrite Rabs_mult. apply Rmult_le_compat_r; [apply Rabs_pos |].
  apply Rle_trans with (1 := He). rewrite <- u_ro_is_u. apply u_rod1pu_ro_le_u_ro.
Qed.

(** and its error is as small beside the rounded sum. *)
Lemma RN_add_error_back a b :
  format a -> format b -> Rabs (RN (a + b) - (a + b)) <= u * Rabs (RN (a + b)).
Proof.
  intros Fa Fb.
  destruct (FLT_plus_error_N_round_ex radix2 emin prec (fun z => negb (Z.even z)) a b Fa Fb)
    as (e & He & H).
  fold (RN (a + b)) in H.
  assert (E : RN (a + b) - (a + b) = - (e * RN (a + b))) by lra.
  rewrite E.
  rewrite Rabs_Ropp, Rabs_mult. apply Rmult_le_compat_r; [apply Rabs_pos |].
  rewrite <- u_ro_is_u. exact He.
Qed.

(** The error of an addition is a number of the format. *)
Lemma RN_add_error_format a b : format a -> format b -> format (RN (a + b) - (a + b)).
Proof. intros Fa Fb. apply plus_error; try typeclasses eauto; assumption. Qed.

(** Whole multiples of 2^[k] of up to [prec] bits. *)
Lemma format_multiple (m k : Z) :
  (emin <= k)%Z -> (Z.abs m <= 2 ^ prec)%Z -> format (IZR m * bpow radix2 k).
Proof.
  intros Hk Hm.
  assert (P : (0 < prec)%Z) by exact prec_gt_0_.
  destruct (Z.eq_dec (Z.abs m) (2 ^ prec)) as [E | E].
  - assert (S : exists s, (s = 1 \/ s = -1)%Z /\ (m = s * 2 ^ prec)%Z).
    { destruct (Z.abs_spec m) as [[_ A] | [_ A]]; [exists 1%Z | exists (-1)%Z]; lia. }
    destruct S as (s & S & ->).
    rewrite mult_IZR. change 2%Z with (radix_val radix2). rewrite IZR_Zpower by lia.
    rewrite Rmult_assoc, <- bpow_plus.
    assert (B : format (bpow radix2 (prec + k))).
    { apply generic_format_bpow. unfold FLT_exp. lia. }
    destruct S as [-> | ->].
    + rewrite Rmult_1_l. exact B.
    + replace (-1 * bpow radix2 (prec + k)) with (- bpow radix2 (prec + k)) by ring.
      now apply format_opp.
  - change (IZR m * bpow radix2 k) with (F2R (Float radix2 m k)).
    apply generic_format_FLT. exists (Float radix2 m k); simpl; [reflexivity | lia | exact Hk].
Qed.

(** Half a last place of a number that is no larger than a power of two. *)
Lemma RN_error_below x k :
  (emin + prec <= k)%Z -> Rabs x <= bpow radix2 k -> Rabs (RN x - x) <= bpow radix2 (k - prec - 1).
Proof.
  intros Hk Hx.
  assert (P : (0 < prec)%Z) by exact prec_gt_0_.
  destruct (Rle_lt_or_eq_dec _ _ Hx) as [L | E].
  - apply Rle_trans with (/ 2 * ulp radix2 (FLT_exp emin prec) x).
    { apply error_le_half_ulp. typeclasses eauto. }
    destruct (Req_dec x 0) as [-> | N].
    { rewrite ulp_FLT_0 by exact prec_gt_0_. rewrite eta_is. unfold eta. apply bpow_le. lia. }
    rewrite ulp_neq_0 by exact N. unfold cexp.
    replace (k - prec - 1)%Z with (-1 + (k - prec))%Z by ring. rewrite bpow_plus.
    change (bpow radix2 (-1)) with (/ 2).
    apply Rmult_le_compat_l; [lra |]. apply bpow_le.
    assert (M : (mag radix2 x <= k)%Z) by now apply mag_le_bpow.
    unfold FLT_exp. lia.
  - assert (F : format x).
    { apply generic_format_abs_inv. rewrite E. apply generic_format_bpow. unfold FLT_exp. lia. }
    rewrite (RN_format x F). unfold Rminus. rewrite Rplus_opp_r, Rabs_R0. apply bpow_ge_0.
Qed.

End Float.
Arguments format : clear implicits.
Arguments RN : clear implicits.
Arguments u : clear implicits.
Arguments eta : clear implicits.

(** The formats of the library, as exact/formats.h describes them: precision, lowest bit. *)
Definition f64_prec := 53%Z.
Definition f64_emin := (-1074)%Z.
Definition f32_prec := 24%Z.
Definition f32_emin := (-149)%Z.
Definition bf16_prec := 8%Z.
Definition bf16_emin := (-133)%Z.
Definition f16_prec := 11%Z.
Definition f16_emin := (-24)%Z.

Global Instance f64_prec_gt_0 : Prec_gt_0 f64_prec := eq_refl.
Global Instance f32_prec_gt_0 : Prec_gt_0 f32_prec := eq_refl.
Global Instance bf16_prec_gt_0 : Prec_gt_0 bf16_prec := eq_refl.
Global Instance f16_prec_gt_0 : Prec_gt_0 f16_prec := eq_refl.

Notation format64 := (format f64_prec f64_emin).
Notation RN64 := (RN f64_prec f64_emin).
Notation format32 := (format f32_prec f32_emin).
Notation RN32 := (RN f32_prec f32_emin).
