(* SPDX-License-Identifier: BSD-3-Clause *)

(** * Both ends round alike: the correctly rounded number (exact/twofold.h, fr_sum_decide)

    The exact sum lies within [err] of [high + low]. C adds to the error what its own additions may
    lose, computes both ends, and rounds them to the format wanted. *)

From Coq Require Import Reals Psatz ZArith.
From Flocq Require Import Core.
From Fastreg Require Import Float Grid.
Local Open Scope R_scope.

(** ** What C states: error + (error + size) 2^decide_exponent. *)
Definition decide_exponent := (-51)%Z.

Notation RN := (RN f64_prec f64_emin).
Notation tiny := (eta f64_emin).
Notation U := (/ 9007199254740992).

(** Rounding is monotonic: what holds of two ends that agree holds of all between. *)
Theorem ends_agree (prec emin : Z) {P : Prec_gt_0 prec} below above x :
  below <= x <= above ->
  Float.RN prec emin below = Float.RN prec emin above ->
  Float.RN prec emin x = Float.RN prec emin above.
Proof.
  intros [A B] E. apply Rle_antisym; [now apply RN_le |]. rewrite <- E. now apply RN_le.
Qed.

(** The error as C computes it. *)
Definition padded (err size : R) : R :=
  RN (err + RN (RN (err + size) * bpow radix2 decide_exponent)).

Section Padded.
Variables err size : R.
Hypothesis err_format : format64 err.
Hypothesis size_format : format64 size.
Hypothesis err_ge_0 : 0 <= err.
Hypothesis size_ge_0 : 0 <= size.

Lemma padded_ge : err <= padded err size.
Proof.
  apply RN_ge_format; [exact err_format |].
  assert (0 <= RN (RN (err + size) * bpow radix2 decide_exponent)); [| lra].
  apply RN_ge_0, Rmult_le_pos; [apply RN_ge_0; lra | apply bpow_ge_0].
Qed.

Lemma padded_gain :
  47 / 16 * U * (err + size) - 17 / 16 * tiny <= padded err size - err
  <= 6 * U * (err + size) + 2 * tiny.
Proof.
  unfold padded. change (bpow radix2 decide_exponent) with (/ 2251799813685248).
  assert (A := RN_add_error err size err_format size_format).
  rewrite (Rabs_pos_eq (err + size)) in A by lra.
  assert (P := RN_ge_0 (emin := f64_emin) (prec := f64_prec) (err + size) ltac:(lra)).
  set (p := RN (err + size)) in *.
  assert (B := @RN_error f64_prec f64_emin _ (p * / 2251799813685248)).
  rewrite (Rabs_pos_eq (p * / 2251799813685248)) in B by lra.
  assert (Q := RN_ge_0 (emin := f64_emin) (prec := f64_prec) (p * / 2251799813685248) ltac:(lra)).
  assert (F := @format_RN f64_prec f64_emin _ (p * / 2251799813685248)).
  set (g := RN (p * / 2251799813685248)) in *.
  assert (C := RN_add_error err g err_format F).
  rewrite (Rabs_pos_eq (err + g)) in C by lra.
  change (u f64_prec) with U in *.
  apply Rabs_le_inv in A. apply Rabs_le_inv in B. apply Rabs_le_inv in C.
  assert (T := @eta_pos f64_emin). lra.
Qed.

(** Below 3 2^-1023 every addition is exact. *)
Lemma small_add_exact a b : format64 a -> format64 b -> Rabs (a + b) <= bpow radix2 (-1021) ->
  RN (a + b) = a + b.
Proof.
  intros Fa Fb H. apply RN_format. apply (@format_of_multiple f64_prec f64_emin _ f64_emin); [lia | |].
  - assert (M : forall x, format64 x -> multiple f64_emin x).
    { intros x F. apply (multiple_le _ (cexp radix2 (FLT_exp f64_emin f64_prec) x)).
      - unfold cexp, FLT_exp. lia.
      - exists (Ztrunc (scaled_mantissa radix2 (FLT_exp f64_emin f64_prec) x)). exact F. }
    apply multiple_add; auto.
  - exact H.
Qed.

Notation threshold := (3 * bpow radix2 (-1023)).

Lemma threshold_tiny : threshold * U = 3 / 2 * tiny /\ bpow radix2 (-1021) = 4 / 3 * threshold
  /\ bpow radix2 (-1021) * U = 2 * tiny.
Proof.
  assert (T : bpow radix2 (-1023) * U = / 2 * tiny).
  { change U with (bpow radix2 (-53)). change (/ 2) with (bpow radix2 (-1)).
    unfold eta. rewrite <- !bpow_plus. reflexivity. }
  assert (Q : bpow radix2 (-1021) = 4 * bpow radix2 (-1023)).
  { change 4 with (bpow radix2 2). now rewrite <- bpow_plus. }
  rewrite Q. lra.
Qed.

(** f64: the size is that of [low], and rounding [low -+ error] is all that is lost before the last
    rounding. *)
Theorem low_end low : format64 low -> Rabs low <= size ->
  RN (low - padded err size) <= low - err.
Proof.
  intros Fl L. assert (Fp : format64 (padded err size)) by apply format_RN.
  destruct padded_gain as [G1 G2]. assert (G := padded_ge).
  destruct threshold_tiny as (T1 & T2 & T3). assert (T := @eta_pos f64_emin).
  set (e := padded err size) in *.
  assert (X : Rabs (low - e) <= size + e).
  { unfold Rminus. apply Rle_trans with (1 := Rabs_triang _ _).
    rewrite Rabs_Ropp, (Rabs_pos_eq e) by lra. lra. }
  destruct (Rle_lt_dec threshold (err + size)) as [H | H].
  - assert (E := RN_add_error low (- e) Fl (format_opp e Fp)). apply Rabs_le_inv in E.
    change (low + - e) with (low - e) in E. change (u f64_prec) with U in E. lra.
  - unfold Rminus. rewrite small_add_exact; trivial; [lra | now apply format_opp |].
    change (low + - e) with (low - e). apply Rle_trans with (1 := X). lra.
Qed.

(** Narrower formats: the size is [high], for adding it is a rounding of its own. *)
Theorem whole_end high low : format64 high -> format64 low -> size = high ->
  Rabs low <= / 1125899906842624 * high ->
  RN (high + RN (low - padded err size)) <= high + low - err.
Proof.
  intros Fh Fl S L. assert (Fp : format64 (padded err size)) by apply format_RN.
  destruct padded_gain as [G1 G2]. assert (G := padded_ge).
  destruct threshold_tiny as (T1 & T2 & T3). assert (T := @eta_pos f64_emin).
  set (e := padded err size) in *.
  assert (X : Rabs (low - e) <= / 1125899906842624 * high + e).
  { unfold Rminus. apply Rle_trans with (1 := Rabs_triang _ _).
    rewrite Rabs_Ropp, (Rabs_pos_eq e) by lra. lra. }
  assert (E := RN_add_error low (- e) Fl (format_opp e Fp)). change (low + - e) with (low - e) in E.
  change (u f64_prec) with U in E.
  assert (Fr := @format_RN f64_prec f64_emin _ (low - e)).
  assert (E2 := RN_add_error high (RN (low - e)) Fh Fr). change (u f64_prec) with U in E2.
  destruct (Rle_lt_dec threshold (err + size)) as [H | H].
  - apply Rabs_le_inv in E.
    assert (Y : Rabs (high + RN (low - e)) <= high + (1 + U) * (/ 1125899906842624 * high + e)).
    { apply Rabs_le. assert (X' := Rabs_le_inv _ _ X). split; lra. }
    apply Rabs_le_inv in E2. assert (X' := Rabs_le_inv _ _ X). lra.
  - assert (E3 : RN (low - e) = low - e).
    { unfold Rminus. apply small_add_exact; trivial; [now apply format_opp |].
      change (low + - e) with (low - e). apply Rle_trans with (1 := X). lra. }
    rewrite E3 in *. rewrite small_add_exact; trivial; [lra |].
    apply Rabs_le_inv in X. apply Rabs_le. lra.
Qed.

End Padded.

Section Decide.
Variables high low err x : R.
Hypothesis high_format : format64 high.
Hypothesis low_format : format64 low.
Hypothesis err_format : format64 err.
Hypothesis err_ge_0 : 0 <= err.
Hypothesis enclosed : Rabs (x - (high + low)) <= err.

Lemma above_is_below_mirrored a b : RN (a + b) = - RN (- a + - b).
Proof. rewrite <- RN_opp. f_equal. ring. Qed.

(** Results in f64. *)
Theorem decide_f64 :
  let e := padded err (Rabs low) in
  RN (high + RN (low - e)) = RN (high + RN (low + e)) -> RN x = RN (high + RN (low + e)).
Proof.
  intros e E. assert (S := format_abs low low_format). assert (S0 := Rabs_pos low).
  apply Rabs_le_inv in enclosed.
  apply Rle_antisym.
  - apply RN_le.
    assert (A := low_end err (Rabs low) err_format S err_ge_0 S0 (- low) (format_opp _ low_format)).
    rewrite Rabs_Ropp in A. specialize (A (Rle_refl _)). fold e in A.
    replace (- low - e) with (- (low + e)) in A by ring. rewrite RN_opp in A. lra.
  - rewrite <- E. apply RN_le.
    assert (A := low_end err (Rabs low) err_format S err_ge_0 S0 low low_format (Rle_refl _)).
    fold e in A. lra.
Qed.

(** Results in a narrower format, whatever it is, through f64. *)
Theorem decide_narrow (prec emin : Z) {P : Prec_gt_0 prec} :
  0 <= high -> Rabs low <= / 1125899906842624 * high ->
  let e := padded err high in
  Float.RN prec emin (RN (high + RN (low - e))) = Float.RN prec emin (RN (high + RN (low + e))) ->
  Float.RN prec emin x = Float.RN prec emin (RN (high + RN (low + e))).
Proof.
  intros H L e E. apply Rabs_le_inv in enclosed.
  apply (ends_agree prec emin (RN (high + RN (low - e)))); [| exact E].
  assert (A := whole_end err high err_format high_format err_ge_0 H high low high_format low_format
                 eq_refl L). fold e in A.
  split; [lra |].
  (* the upper end: at least high + low + err *)
  assert (Fp : format64 e) by apply format_RN.
  destruct (padded_gain err high err_format high_format err_ge_0 H) as [G1 G2]. fold e in G1, G2.
  assert (G := padded_ge err high err_format err_ge_0 H). fold e in G.
  destruct threshold_tiny as (T1 & T2 & T3). assert (T := @eta_pos f64_emin).
  assert (X : Rabs (low + e) <= / 1125899906842624 * high + e).
  { apply Rle_trans with (1 := Rabs_triang _ _). rewrite (Rabs_pos_eq e) by lra. lra. }
  assert (E1 := RN_add_error low e low_format Fp). change (u f64_prec) with U in E1.
  assert (Fr := @format_RN f64_prec f64_emin _ (low + e)).
  assert (E2 := RN_add_error high (RN (low + e)) high_format Fr). change (u f64_prec) with U in E2.
  destruct (Rle_lt_dec (3 * bpow radix2 (-1023)) (err + high)) as [B | B].
  - apply Rabs_le_inv in E1.
    assert (Y : Rabs (high + RN (low + e)) <= high + (1 + U) * (/ 1125899906842624 * high + e)).
    { apply Rabs_le. assert (X' := Rabs_le_inv _ _ X). split; lra. }
    apply Rabs_le_inv in E2. assert (X' := Rabs_le_inv _ _ X). lra.
  - assert (E3 : RN (low + e) = low + e).
    { apply small_add_exact; trivial. apply Rle_trans with (1 := X). lra. }
    rewrite E3 in *. rewrite small_add_exact; trivial; [lra |].
    apply Rabs_le_inv in X. apply Rabs_le. lra.
Qed.

End Decide.
