(* SPDX-License-Identifier: BSD-3-Clause *)

(** * The plain sum in f32 lanes, for results of 11 bits (kernels/loops.inc, fr_narrow)

    2^[3] vectors of [lanes] floats: a chain for each lane, the vectors folded pairwise in f32, the
    lanes of the last added in f64. C claims that the sum is wrong by no more than

      computed * (n / STEP + PAIRS + 8) * 2^-23. *)

From Coq Require Import Reals Psatz ZArith List Arith.
From Flocq Require Import Core.
From Fastreg Require Import Float Sum Plain.
Local Open Scope R_scope.

(** ** What C states *)

Definition narrow_more := 8%nat.
Definition narrow_exponent := (-23)%Z.
Definition narrow_pairs := 4%nat.
(** Where squares may underflow, the least sum that f32 lanes answer for. *)
Definition narrow_least := (-100)%Z.

(** Elements of a lane: one of each whole step, and one of each pair of vectors that is left. *)
Definition narrow_steps (n step : nat) : nat := (n / step + narrow_pairs + narrow_more)%nat.

Lemma narrow_depth (length folds n step : nat) :
  (length <= n / step + narrow_pairs)%nat -> (folds <= 3)%nat ->
  (length + folds + 5 <= narrow_steps n step)%nat.
Proof. unfold narrow_steps, narrow_more. lia. Qed.

Notation lane_sum := (computed f32_prec f32_emin).
Definition narrow_total (lane : nat -> tree) (L : nat) : R :=
  computed f64_prec f64_emin (chain (map (fun j => lane_sum (lane j)) (seq 0 L))).

Lemma total_over f L : total (map f (seq 0 L)) = over L f.
Proof.
  assert (A : forall l k, total (l ++ k) = total l + total k).
  { induction l; intros; simpl; [ring | rewrite IHl; ring]. }
  induction L as [| L IH]; [reflexivity |].
  rewrite seq_S, map_app, A, IH. simpl. ring.
Qed.

Notation u32 := (/ 16777216).

(** [e] is what an addition may lose near zero: 0 if f32 holds every term, else half its least. *)
Theorem narrow_sum_tight (lane : nat -> tree) (L k K N : nat) (e : R) :
  0 <= e -> (forall j, (j < L)%nat -> tame f32_prec f32_emin e (lane j)) ->
  (forall j, (j < L)%nat -> (depth (lane j) <= k)%nat) ->
  (forall j, (j < L)%nat -> format64 (lane_sum (lane j))) ->
  (L <= 16)%nat -> (k + 1 <= K)%nat -> (Z.of_nat K <= 600)%Z ->
  over L (fun j => INR (additions (lane j))) <= INR N ->
  let T := narrow_total lane L in
  INR N * e <= T * / 68719476736 -> T = 0 \/ bpow radix2 (-298) <= T ->
  Rabs (T - over L (fun j => exact (lane j))) <= RN64 (T * (INR K * u f32_prec)).
Proof.
  intros He Tame Dep F64 HL Hk HK HN T Small NotTiny.
  set (X := over L (fun j => exact (lane j))). set (S := over L (fun j => lane_sum (lane j))).
  assert (Kk : INR k + 1 <= INR K) by (apply le_INR in Hk; rewrite plus_INR in Hk; simpl in Hk; lra).
  assert (K6 : INR K <= 600) by (rewrite INR_IZR_INZ; now apply (IZR_le _ 600)).
  assert (k0 := pos_INR k).
  set (g := growth f32_prec k). assert (G1 : 1 <= g) by apply growth_ge_1.
  assert (G : g <= 1 + (INR k + / 16) * u32).
  { assert (B := growth_bound f32_prec k). fold g in B. change (u f32_prec) with u32 in B.
    set (y := INR k * u32) in *. assert (Y : 0 <= y <= 600 * u32) by (unfold y; lra).
    assert (g <= 1 + y * (1 + 1200 * u32)); [| unfold y in *; lra].
    apply Rnot_lt_le. intros Z.
    assert ((1 + y * (1 + 1200 * u32)) * (1 - y) < g * (1 - y)) by (apply Rmult_lt_compat_r; lra).
    nra. }
  set (h := growth f64_prec L). assert (H1 : 1 <= h) by apply growth_ge_1.
  assert (H : h <= 1 + / 281474976710656).
  { assert (B := growth_bound f64_prec L). fold h in B. change (u f64_prec) with (/ 9007199254740992) in B.
    assert (L16 : INR L <= 16) by (rewrite INR_IZR_INZ; apply (IZR_le _ 16); lia).
    assert (L0 := pos_INR L). nra. }
  assert (B : forall j, (j < L)%nat ->
    lane_sum (lane j) <= g * (exact (lane j) + INR (additions (lane j)) * e) /\
    exact (lane j) <= g * (lane_sum (lane j) + INR (additions (lane j)) * e) /\
    0 <= exact (lane j) /\ 0 <= lane_sum (lane j)).
  { intros j Hj. destruct (tame_bounds f32_prec f32_emin e (lane j) He (Tame j Hj)) as (A & B & C & D).
    assert (Gj := growth_le f32_prec _ _ (Dep j Hj)). fold g in Gj.
    assert (0 <= INR (additions (lane j)) * e) by (apply Rmult_le_pos; [apply pos_INR | exact He]).
    repeat split; trivial.
    - apply Rle_trans with (1 := A). apply Rmult_le_compat_r; lra.
    - apply Rle_trans with (1 := B). apply Rmult_le_compat_r; lra. }
  set (M := over L (fun j => INR (additions (lane j)))) in *.
  assert (M0 : 0 <= M) by (apply over_ge_0; intros; apply pos_INR).
  assert (S1 : S <= g * (X + M * e)).
  { unfold S, X, M. rewrite (Rmult_comm _ e), <- over_scale, <- over_plus, <- over_scale. apply over_le.
    intros j Hj. rewrite (Rmult_comm e). now apply B. }
  assert (X1 : X <= g * (S + M * e)).
  { unfold S, X, M. rewrite (Rmult_comm _ e), <- over_scale, <- over_plus, <- over_scale. apply over_le.
    intros j Hj. rewrite (Rmult_comm e). now apply B. }
  assert (X0 : 0 <= X) by (apply over_ge_0; intros j Hj; now apply B).
  assert (S0 : 0 <= S) by (apply over_ge_0; intros j Hj; now apply B).
  (* the lanes in f64 *)
  set (l := map (fun j => lane_sum (lane j)) (seq 0 L)) in *.
  assert (In : forall P : R -> Prop, (forall j, (j < L)%nat -> P (lane_sum (lane j))) -> Forall P l).
  { intros P HP. apply Forall_forall. intros t Ht. apply in_map_iff in Ht.
    destruct Ht as (j & <- & Hj). apply HP. apply in_seq in Hj. lia. }
  assert (Nl : leaves natural (chain l)).
  { apply leaves_chain_from; [apply Rle_refl |]. apply In. intros j Hj. now apply B. }
  assert (Fl : leaves format64 (chain l)).
  { apply leaves_chain_from; [apply generic_format_0 | apply In; exact F64]. }
  destruct (tame_bounds f64_prec f64_emin 0 (chain l) (Rle_refl 0) (tame_format _ _ _ Nl Fl))
    as (T1 & T2 & _ & T0).
  change (computed f64_prec f64_emin (chain l)) with T in T1, T2, T0.
  rewrite Rmult_0_r, Rplus_0_r in T1, T2.
  assert (El : exact (chain l) = S).
  { unfold chain. rewrite exact_chain_from. simpl. unfold l. rewrite total_over. unfold S. ring. }
  assert (Dl : depth (chain l) = L).
  { unfold chain. rewrite depth_chain_from. simpl. unfold l. now rewrite map_length, seq_length. }
  rewrite El, Dl in T1, T2. fold h in T1, T2.
  (* together *)
  assert (Me : 0 <= M * e <= T * / 68719476736).
  { split; [apply Rmult_le_pos; lra |]. apply Rle_trans with (2 := Small).
    apply Rmult_le_compat_r; lra. }
  assert (gh : g * h <= 1 + (INR k + / 8) * u32).
  { apply Rle_trans with (g * (1 + / 281474976710656)); [apply Rmult_le_compat_l; lra |]. lra. }
  assert (gh1 : 1 <= g * h) by nra.
  assert (gh2 : g * h <= 2) by lra.
  assert (Xu : X <= g * h * T + 2 * (M * e)).
  { apply Rle_trans with (1 := X1). apply Rle_trans with (g * (h * T + M * e)).
    - apply Rmult_le_compat_l; lra.
    - assert (g <= 2) by lra. nra. }
  assert (Tu : T <= g * h * (X + M * e)).
  { apply Rle_trans with (1 := T1). rewrite (Rmult_comm g h), Rmult_assoc.
    apply Rmult_le_compat_l; lra. }
  assert (D : Rabs (T - X) <= (INR k + / 2) * u32 * T).
  { apply Rabs_le. split.
    - assert ((g * h - 1) * T <= (INR k + / 8) * u32 * T) by (apply Rmult_le_compat_r; lra). lra.
    - destruct (Rle_lt_dec X T) as [C | C].
      + assert ((g * h - 1) * X <= (INR k + / 8) * u32 * X) by (apply Rmult_le_compat_r; lra).
        assert ((INR k + / 8) * u32 * X <= (INR k + / 8) * u32 * T) by (apply Rmult_le_compat_l; nra).
        assert (g * h * (M * e) <= 2 * (M * e)) by (apply Rmult_le_compat_r; lra). lra.
      + assert (0 <= (INR k + / 2) * u32 * T) by (repeat apply Rmult_le_pos; lra). lra. }
  apply Rle_trans with (1 := D).
  change (u f32_prec) with u32.
  destruct NotTiny as [Z | NotTiny].
  { rewrite Z, Rmult_0_r, Rmult_0_l. apply RN_ge_0. lra. }
  assert (E := @RN_error f64_prec f64_emin _ (T * (INR K * u32))).
  rewrite (Rabs_pos_eq (T * (INR K * u32))) in E by (apply Rmult_le_pos; lra).
  assert (Ti := not_tiny T (-298) ltac:(lia) NotTiny).
  change (u f64_prec) with (/ 9007199254740992) in *.
  apply Rabs_le_inv in E.
  assert (INR K * T <= 600 * T) by (apply Rmult_le_compat_r; lra).
  assert ((INR k + 1) * T <= INR K * T) by (apply Rmult_le_compat_r; lra).
  lra.
Qed.

(** What C claims, twice that; squares of bf16 that underflow are covered from 2^-100 on: 2^14
    additions lose at most 2^-150 each. *)
Theorem narrow_underflow (T : R) (N : nat) :
  (Z.of_nat N <= 2 ^ 14)%Z -> bpow radix2 narrow_least <= T ->
  INR N * eta f32_emin <= T * / 68719476736.
Proof.
  intros HN HT. apply (INR_le_bpow N 14) in HN; [| lia].
  apply Rle_trans with (bpow radix2 14 * eta f32_emin).
  { apply Rmult_le_compat_r; [apply bpow_ge_0 | exact HN]. }
  apply Rle_trans with (bpow radix2 narrow_least * bpow radix2 (-36)).
  - unfold eta. rewrite <- !bpow_plus. apply bpow_le. unfold f32_emin, narrow_least. lia.
  - change (/ 68719476736) with (bpow radix2 (-36)).
    apply Rmult_le_compat_r; [apply bpow_ge_0 | exact HT].
Qed.

Theorem narrow_sum (x T : R) (K : nat) : 0 <= T ->
  x <= RN64 (T * (INR K * u f32_prec)) -> x <= RN64 (T * (INR K * bpow radix2 narrow_exponent)).
Proof.
  intros HT H. apply Rle_trans with (1 := H). apply RN_le. apply Rmult_le_compat_l; [exact HT |].
  apply Rmult_le_compat_l; [apply pos_INR |]. apply bpow_le. unfold f32_prec, narrow_exponent. lia.
Qed.
