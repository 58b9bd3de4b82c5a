(* SPDX-License-Identifier: BSD-3-Clause *)

(** * Blocks whose sums are exact (exact/blocks.h)

    The letters are those of the comment there. [v] is the exponent of the grid: every term is a
    whole number of 2^[v]. *)

From Coq Require Import Reals Psatz ZArith List Arith.
From Flocq Require Import Core.
From Fastreg Require Import Float Sum Grid Anchored.
Local Open Scope R_scope.

(** ** What C states *)

(** The middle level starts at 1.5 D, D = C 2^-53 2^width(middle_factor (m + middle_more)). *)
Definition middle_factor := 2%nat.
Definition middle_more := 2%nat.
(** (b): C 2^low_exponent m <= 2^v. (d) and (f): D 2^middle_exponent m <= 2^v. *)
Definition low_exponent := (-106)%Z.
Definition middle_exponent := (-105)%Z.
Definition block_least := (-400)%Z.

(** ** (a) and the lanes that are plain *)

(** Lanes of terms that are not negative, by the computed sum: statistics.c and |x| of a block. *)
Theorem plain_lane_exact v l :
  (f64_emin <= v)%Z -> Forall (multiple v) l -> Forall natural l ->
  computed (chain l) < bpow radix2 (53 + v) -> computed (chain l) = total l.
Proof.
  intros Hv M N H.
  destruct (@natural_sum_exact f64_prec f64_emin _ v (chain l)) as [E _]; trivial.
  - apply leaves_chain_from; [apply multiple_0 | exact M].
  - apply leaves_chain_from; [apply Rle_refl | exact N].
  - rewrite E. unfold chain. rewrite exact_chain_from. simpl. ring.
Qed.

(** Lanes of rests of at most [b] each, by their number: (b), (d), (f). *)
Theorem low_lane_exact v b l :
  (f64_emin <= v)%Z -> Forall (multiple v) l -> Forall (fun r => Rabs r <= b) l ->
  INR (length l) * b <= bpow radix2 (53 + v) -> computed (chain l) = total l.
Proof.
  intros Hv M B H.
  destruct (@sum_exact f64_prec f64_emin _ v (chain l)) as [E _]; trivial.
  - apply leaves_chain_from; [apply multiple_0 | exact M].
  - unfold chain. rewrite size_chain_from. simpl. rewrite Rabs_R0, Rplus_0_l.
    apply Rle_trans with (2 := H). now apply magnitude_le.
  - rewrite E. unfold chain. rewrite exact_chain_from. simpl. ring.
Qed.

(** Folding: the computed sum of the magnitudes is at most 2^52 grid steps, and its own roundings
    are fewer than a factor of 2. *)
Theorem fold_exact v s mags :
  (f64_emin <= v)%Z -> leaves (multiple v) s -> leaves natural mags -> leaves format64 mags ->
  exact mags = size s -> (Z.of_nat (depth mags) <= 2 ^ 20)%Z ->
  computed mags <= bpow radix2 (52 + v) -> computed s = exact s.
Proof.
  intros Hv M N F E D H.
  apply (@sum_exact f64_prec f64_emin _ v); trivial. rewrite <- E.
  destruct (tame_bounds f64_prec f64_emin 0 mags (Rle_refl 0) (tame_format _ _ mags N F))
    as (_ & B & _ & P).
  rewrite Rmult_0_r, Rplus_0_r in B.
  assert (G : growth f64_prec (depth mags) <= 2).
  { assert (K := growth_bound f64_prec (depth mags)).
    assert (K2 : INR (depth mags) <= 1048576).
    { rewrite INR_IZR_INZ. now apply (IZR_le _ 1048576). }
    assert (K3 := pos_INR (depth mags)). assert (K4 := growth_ge_1 f64_prec (depth mags)).
    change (u f64_prec) with (/ 9007199254740992) in K. nra. }
  apply Rle_trans with (1 := B). replace (f64_prec + v)%Z with (1 + (52 + v))%Z by (unfold f64_prec; ring).
  rewrite bpow_plus. change (bpow radix2 1) with 2. apply Rmult_le_compat; trivial.
  apply Rle_trans with (2 := growth_ge_1 f64_prec (depth mags)). lra.
Qed.

(** ** Two levels: |x| of f64, and squares that f64 holds

    The rests are exact, on the grid, and (b) makes their sum exact: lane by lane, nothing is lost. *)
Theorem two_levels c v l m :
  (anchor_least <= c)%Z -> (f64_emin <= v)%Z ->
  Forall natural l -> Forall format64 l -> Forall (multiple v) l -> (length l <= m)%nat ->
  final (bpow radix2 c) l < bpow radix2 (c + 1) ->
  bpow radix2 c * bpow radix2 low_exponent * INR m <= bpow radix2 v ->
  let C := bpow radix2 c in
  final C l - C + computed (chain (rests C l)) = total l.
Proof.
  intros Hc Hv N F M Hm End B C. unfold anchor_least in Hc.
  assert (FC : format64 C) by (apply format_C; exact Hc).
  assert (St : stays c C l).
  { apply stays_natural; trivial; [unfold f64_emin; lia | apply Rle_refl]. }
  assert (W : within c C).
  { unfold within, C. rewrite bpow_plus. change (bpow radix2 1) with 2.
    generalize (bpow_ge_0 radix2 c). lra. }
  rewrite (low_lane_exact v (bpow radix2 (c - f64_prec)) (rests C l)); trivial.
  - generalize (@lane_total f64_prec f64_emin l C). lra.
  - apply (lane_rests_multiple c); trivial. unfold f64_emin, f64_prec. lia.
  - apply (lane_rests_bound c); [unfold f64_emin, f64_prec; lia | exact St].
  - rewrite rests_length.
    apply Rle_trans with (INR m * bpow radix2 (c - f64_prec)).
    { apply Rmult_le_compat_r; [apply bpow_ge_0 | now apply le_INR]. }
    replace (53 + v)%Z with (53 + v)%Z by ring. rewrite (bpow_plus radix2 53 v).
    apply Rle_trans with (bpow radix2 53 * (C * bpow radix2 low_exponent * INR m)).
    + right. unfold C.
      replace (bpow radix2 53 * (bpow radix2 c * bpow radix2 low_exponent * INR m))
        with (INR m * (bpow radix2 53 * bpow radix2 c * bpow radix2 low_exponent)) by ring.
      rewrite <- !bpow_plus. apply f_equal. apply f_equal. unfold low_exponent, f64_prec. lia.
    + apply Rmult_le_compat_l; [apply bpow_ge_0 | exact B].
Qed.

(** ** A level of terms of either sign: the middle, which starts at 1.5 D

    Roundings move it as well: they have to be counted along with the terms. *)
Theorem middle_stays d l : (anchor_least - 60 <= d)%Z ->
  magnitude l + INR (length l) * bpow radix2 (d - f64_prec) <= bpow radix2 (d - 1) ->
  forall h, format64 h -> within d h ->
  Rabs (h - 3 / 2 * bpow radix2 d)
    <= bpow radix2 (d - 1) - (magnitude l + INR (length l) * bpow radix2 (d - f64_prec)) ->
  stays d h l.
Proof.
  intros Hd. unfold anchor_least in Hd.
  assert (D1 : bpow radix2 (d + 1) = 2 * bpow radix2 d) by (rewrite bpow_plus; change (bpow radix2 1) with 2; ring).
  assert (D2 : bpow radix2 (d - 1) = / 2 * bpow radix2 d).
  { unfold Z.sub. rewrite bpow_plus. change (bpow radix2 (-(1))) with (/ 2). ring. }
  assert (D0 : 0 < bpow radix2 d) by apply bpow_gt_0.
  induction l as [| t l IH]; intros T h F W Hh; simpl; [exact I |].
  change (length (t :: l)) with (S (length l)) in *. rewrite S_INR in *. simpl magnitude in *.
  assert (P : 0 < bpow radix2 (d - f64_prec)) by apply bpow_gt_0.
  assert (M : 0 <= magnitude l).
  { clear. induction l as [| a l IHl]; simpl; [lra |]. generalize (Rabs_pos a). lra. }
  assert (N : 0 <= INR (length l) * bpow radix2 (d - f64_prec)).
  { apply Rmult_le_pos; [apply pos_INR | lra]. }
  apply Rabs_le_inv in Hh. assert (At := Rabs_le_inv t _ (Rle_refl (Rabs t))).
  assert (Wt : within d (h + t)).
  { unfold within. rewrite D1. rewrite D2 in Hh. lra. }
  split; [exact Wt |].
  assert (E : Rabs (RN (h + t) - (h + t)) <= bpow radix2 (d - f64_prec)).
  { replace (d - f64_prec)%Z with (d + 1 - f64_prec - 1)%Z by ring.
    apply RN_error_below; [unfold f64_emin, f64_prec; lia |].
    destruct Wt as [A B]. rewrite Rabs_pos_eq; lra. }
  apply Rabs_le_inv in E.
  apply IH.
  - lra.
  - apply format_RN.
  - apply (@step_within f64_prec f64_emin _); [unfold f64_emin, f64_prec; lia | exact Wt].
  - apply Rabs_le. lra.
Qed.

(** Such a level and the next: with (d) nothing is lost. *)
Theorem middle_exact d v l :
  (anchor_least - 60 <= d)%Z -> (f64_emin <= v)%Z ->
  Forall format64 l -> Forall (multiple v) l ->
  magnitude l + INR (length l) * bpow radix2 (d - f64_prec) <= bpow radix2 (d - 1) ->
  INR (length l) * bpow radix2 (d - f64_prec) <= bpow radix2 (53 + v) ->
  let h := 3 / 2 * bpow radix2 d in
  final h l - h + computed (chain (rests h l)) = total l
  /\ Forall format64 (rests h l) /\ Forall (multiple v) (rests h l)
  /\ Forall (fun r => Rabs r <= bpow radix2 (d - f64_prec)) (rests h l).
Proof.
  intros Hd Hv F M T L h. unfold anchor_least in Hd.
  assert (Fh : format64 h).
  { replace h with (3 * bpow radix2 (d - 1)).
    - apply (@format_multiple f64_prec f64_emin _ 3); unfold f64_emin, f64_prec; simpl; lia.
    - unfold h, Z.sub. rewrite bpow_plus. change (bpow radix2 (-(1))) with (/ 2). field. }
  assert (W : within d h).
  { unfold within, h. rewrite bpow_plus. change (bpow radix2 1) with 2.
    generalize (bpow_ge_0 radix2 d). lra. }
  assert (St : stays d h l).
  { apply middle_stays; trivial. unfold h at 1. rewrite Rminus_diag_eq, Rabs_R0 by reflexivity. lra. }
  assert (Mr : Forall (multiple v) (rests h l)).
  { apply (lane_rests_multiple d); trivial. unfold f64_emin, f64_prec. lia. }
  assert (Br : Forall (fun r => Rabs r <= bpow radix2 (d - f64_prec)) (rests h l)).
  { apply (lane_rests_bound d); [unfold f64_emin, f64_prec; lia | exact St]. }
  repeat split; trivial; [| now apply lane_rests_format].
  rewrite (low_lane_exact v (bpow radix2 (d - f64_prec)) (rests h l)); trivial.
  - generalize (@lane_total f64_prec f64_emin l h). lra.
  - now rewrite rests_length.
Qed.

(** (c) with the D that C chooses. A lane of squares has at most [m] elements; its middle gets their
    rests, at most C 2^-53 each, and the errors of the squares, a little more than C 2^-53 together.
    That the roundings of the middle have room needs the 2 in m + 2: with m + 1 they would not. *)
Theorem middle_has_room (c w : Z) (m : nat) (l : list R) :
  let C := bpow radix2 c in let d := (c - 53 + w)%Z in
  (Z.of_nat m <= 2 ^ 20)%Z ->
  (Z.of_nat (middle_factor * (m + middle_more)) < 2 ^ w)%Z ->
  (2 ^ w <= 2 * Z.of_nat (middle_factor * (m + middle_more)))%Z -> (0 <= w)%Z ->
  (length l <= 2 * m)%nat ->
  magnitude l <= (INR m + 1 + / 1048576) * (C * bpow radix2 (-53)) ->
  magnitude l + INR (length l) * bpow radix2 (d - f64_prec) <= bpow radix2 (d - 1).
Proof.
  intros C d Hm Lo Hi Hw Hl T. unfold middle_factor, middle_more in *.
  assert (C0 : 0 < C * bpow radix2 (-53)) by (apply Rmult_lt_0_compat; apply bpow_gt_0).
  set (e := C * bpow radix2 (-53)) in *.
  assert (D : bpow radix2 d = e * bpow radix2 w).
  { unfold d, e, C. rewrite <- !bpow_plus. apply f_equal. lia. }
  clearbody e.
  assert (P : bpow radix2 w = IZR (2 ^ w)).
  { change 2%Z with (radix_val radix2). rewrite IZR_Zpower by exact Hw. reflexivity. }
  assert (M : INR m <= 1048576) by (rewrite INR_IZR_INZ; now apply (IZR_le _ 1048576)).
  assert (M0 := pos_INR m).
  assert (A : 2 * INR m + 4 <= bpow radix2 w <= 4 * INR m + 8).
  { rewrite P, INR_IZR_INZ, <- !mult_IZR, <- !plus_IZR. split; apply IZR_le; lia. }
  assert (Hl' : INR (length l) <= 2 * INR m).
  { change 2 with (INR 2). rewrite <- mult_INR. now apply le_INR. }
  unfold Z.sub. rewrite !bpow_plus, D. change (bpow radix2 (- f64_prec)) with (/ 9007199254740992).
  change (bpow radix2 (-(1))) with (/ 2).
  apply Rle_trans with ((INR m + 1 + / 1048576) * e + 2 * INR m * (e * bpow radix2 w * / 9007199254740992)).
  { apply Rplus_le_compat; [exact T |]. apply Rmult_le_compat_r; [| exact Hl'].
    repeat apply Rmult_le_pos; lra. }
  set (p := bpow radix2 w) in *.
  apply Rle_trans with (e * (INR m + 1 + / 1048576 + 2 * INR m * p * / 9007199254740992)).
  { right. ring. }
  replace (e * p * / 2) with (e * (p * / 2)) by ring.
  apply Rmult_le_compat_l; [lra |].
  assert (2 * INR m * p <= 2 * 1048576 * 4194312) by (apply Rmult_le_compat; lra).
  lra.
Qed.

(** (d): D 2^-105 m <= 2^v is the condition that [middle_exact] has for 2 m terms. *)
Theorem middle_condition d v m n :
  bpow radix2 d * bpow radix2 middle_exponent * INR m <= bpow radix2 v -> (n <= 2 * m)%nat ->
  INR n * bpow radix2 (d - f64_prec) <= bpow radix2 (53 + v).
Proof.
  intros H Hn. rewrite (bpow_plus radix2 53 v).
  apply Rle_trans with (bpow radix2 53 * (bpow radix2 d * bpow radix2 middle_exponent * INR m));
    [| apply Rmult_le_compat_l; [apply bpow_ge_0 | exact H]].
  apply Rle_trans with (2 * INR m * bpow radix2 (d - f64_prec)).
  { apply Rmult_le_compat_r; [apply bpow_ge_0 |]. change 2 with (INR 2). rewrite <- mult_INR.
    now apply le_INR. }
  right. replace (bpow radix2 53 * (bpow radix2 d * bpow radix2 middle_exponent * INR m))
    with (bpow radix2 53 * bpow radix2 d * bpow radix2 middle_exponent * INR m) by ring.
  rewrite <- !bpow_plus.
  replace (53 + d + middle_exponent)%Z with (1 + (d - f64_prec))%Z
    by (unfold middle_exponent, f64_prec; ring).
  rewrite bpow_plus. change (bpow radix2 1) with 2. ring.
Qed.

(** (e): the level after the middle gets 2 m rests of at most D 2^-53, and starts at 1.5 E with
    E = 2 D 2^-53 2^width(2 (m + 2)). *)
Theorem next_has_room (d w : Z) (m : nat) (l : list R) :
  (Z.of_nat m <= 2 ^ 20)%Z ->
  (Z.of_nat (middle_factor * (m + middle_more)) < 2 ^ w)%Z ->
  (2 ^ w <= 2 * Z.of_nat (middle_factor * (m + middle_more)))%Z -> (0 <= w)%Z ->
  (length l <= 2 * m)%nat ->
  Forall (fun r => Rabs r <= bpow radix2 (d - f64_prec)) l ->
  let e := (d + 1 - 53 + w)%Z in
  magnitude l + INR (length l) * bpow radix2 (e - f64_prec) <= bpow radix2 (e - 1).
Proof.
  intros Hm Lo Hi Hw Hl B e. apply (middle_has_room (d + 1) w m); trivial.
  apply Rle_trans with (1 := magnitude_le l _ B).
  apply Rle_trans with (2 * INR m * bpow radix2 (d - f64_prec)).
  { apply Rmult_le_compat_r; [apply bpow_ge_0 |]. change 2 with (INR 2). rewrite <- mult_INR.
    now apply le_INR. }
  replace (d - f64_prec)%Z with (d + -53)%Z by (unfold f64_prec; ring).
  rewrite !bpow_plus. change (bpow radix2 1) with 2.
  assert (0 < bpow radix2 d * bpow radix2 (-53)) by (apply Rmult_lt_0_compat; apply bpow_gt_0).
  generalize (pos_INR m). intros. nra.
Qed.

(** fr_range_width: numbers below 1 on a grid of 2^(1 - w - p) satisfy (d) or (f), for a lane whose
    last level starts at 2^[x] and gets fewer than 2^[log_m] terms of each kind; [x] counts the
    second kind, where there is one. *)
Theorem range_width (p log_m x w : Z) :
  (w = Z.quot (106 - log_m - x) 2 - (p - 1))%Z -> (log_m + x <= 106)%Z ->
  (log_m + x - 106 <= 2 * (1 - w - p))%Z.
Proof. 
  intros -> H. rewrite Z.quot_div_nonneg by lia.
  generalize (Z.mul_div_le (106 - log_m - x) 2 ltac:(lia)). lia.
Qed.

(** Where the last level takes the two rests of an element at once, their sum is exact too. *)
Definition pairs (l : list (R * R)) : tree :=
  fold_left (fun a p => Node a (Node (Leaf (fst p)) (Leaf (snd p)))) l (Leaf 0).

Theorem low_pairs_exact v b (l : list (R * R)) :
  (f64_emin <= v)%Z ->
  Forall (fun p => multiple v (fst p) /\ multiple v (snd p)) l ->
  Forall (fun p => Rabs (fst p) <= b /\ Rabs (snd p) <= b) l ->
  2 * INR (length l) * b <= bpow radix2 (53 + v) ->
  computed (pairs l) = total (map fst l) + total (map snd l).
Proof.
  intros Hv M B H.
  assert (A : forall s, leaves (multiple v) s ->
    leaves (multiple v) (fold_left (fun a p => Node a (Node (Leaf (fst p)) (Leaf (snd p)))) l s)
    /\ size (fold_left (fun a p => Node a (Node (Leaf (fst p)) (Leaf (snd p)))) l s)
       <= size s + 2 * INR (length l) * b
    /\ exact (fold_left (fun a p => Node a (Node (Leaf (fst p)) (Leaf (snd p)))) l s)
       = exact s + total (map fst l) + total (map snd l)).
  { clear H. induction l as [| [p q] l IH]; intros s L.
    { simpl. repeat split; trivial; lra. }
    inversion M as [| ? ? [M1 M2] M']. inversion B as [| ? ? [B1 B2] B']. subst. simpl in M1, M2, B1, B2.
    destruct (IH M' B' (Node s (Node (Leaf p) (Leaf q)))) as (X & Y & Z); [simpl; tauto |].
    change (length ((p, q) :: l)) with (S (length l)). rewrite S_INR.
    simpl in *. repeat split; trivial; lra. }
  destruct (A (Leaf 0) (multiple_0 v)) as (X & Y & Z).
  destruct (@sum_exact f64_prec f64_emin _ v (pairs l) Hv X) as [E _].
  - simpl in Y. rewrite Rabs_R0 in Y. unfold pairs. unfold f64_prec. lra.
  - rewrite E. unfold pairs. rewrite Z. simpl. ring.
Qed.
