(* SPDX-License-Identifier: BSD-3-Clause *)

(** * Sums as pairs of doubles (exact/twofold.h) *)

From Coq Require Import Reals Psatz ZArith.
From Flocq Require Import Core Pff2Flocq.
From Fastreg Require Import Float.
Local Open Scope R_scope.

(** ** What C states *)

Definition twofold_loss := (-103)%Z.
Definition sqrt_loss := (-100)%Z.

Notation RN := (RN f64_prec f64_emin).
Notation U := (/ 9007199254740992).

(** How large [low] may be beside [high]. A pair that was just added or came from TwoSum has
    2^-53; one that was multiplied by a weight, a little more than 2^-52. *)
Definition kappa := / 4503599627370496 * (1 + / 1099511627776).

Lemma choice_symmetric x : negb (Z.even x) = negb (negb (Z.even (- (x + 1)))).
Proof. rewrite Z.even_opp, Z.even_add. simpl. destruct (Z.even x); reflexivity. Qed.

(** Knuth's TwoSum and Dekker's FastTwoSum; Flocq has both proofs. *)
Theorem two_sum a b : format64 a -> format64 b ->
  let s := RN (a + b) in let t := RN (s - a) in
  s + RN (RN (a - RN (s - t)) + RN (b - t)) = a + b.
Proof.
  intros Fa Fb s t.
  exact (TwoSum_correct f64_emin f64_prec (fun z => negb (Z.even z)) eq_refl ltac:(easy) choice_symmetric a b Fa Fb).
Qed.

Theorem fast_two_sum a b : format64 a -> format64 b -> Rabs b <= Rabs a ->
  let s := RN (a + b) in s + RN (b - RN (s - a)) = a + b.
Proof.
  intros Fa Fb H s.
  assert (E : RN (b - RN (s - a)) = RN (b + RN (a - s))).
  { f_equal. replace (a - s) with (- (s - a)) by ring. rewrite RN_opp. ring. }
  rewrite E.
  exact (Fast2Sum_correct f64_emin f64_prec (fun z => negb (Z.even z)) eq_refl ltac:(easy)
           choice_symmetric a b Fa Fb H).
Qed.

(** ** fr_sum_add *)
Section Add.
Variables sh sl th tl : R.
Hypothesis Fsh : format64 sh.
Hypothesis Fsl : format64 sl.
Hypothesis Fth : format64 th.
Hypothesis Ftl : format64 tl.
Hypothesis sh_ge_0 : 0 <= sh.
Hypothesis th_ge_0 : 0 <= th.
Hypothesis sl_small : Rabs sl <= kappa * sh.
Hypothesis tl_small : Rabs tl <= kappa * th.

(** The TwoSum of the highs, as [two_sum] says that it is computed. *)
Variables rh rl : R.
Hypothesis rh_is : rh = RN (sh + th).
Hypothesis rl_is : rl = sh + th - rh.
Hypothesis Frl : format64 rl.

Definition add_low := RN (rl + RN (sl + tl)).
Definition add_high' := RN (rh + add_low).
Definition add_low' := RN (add_low - RN (add_high' - rh)).

Theorem pair_add :
  Rabs (add_high' + add_low' - (sh + sl + th + tl))
    <= 3 / 4 * (add_high' * bpow radix2 twofold_loss)
  /\ Rabs add_low' <= U * add_high' /\ 0 <= add_high'.
Proof.
  unfold kappa in *.
  assert (E1 := RN_add_error sl tl Fsl Ftl).
  assert (Fm := @format_RN f64_prec f64_emin _ (sl + tl)). set (mid := RN (sl + tl)) in *.
  assert (E2 := RN_add_error rl mid Frl Fm). change (RN (rl + mid)) with add_low in E2.
  assert (E3 := RN_add_error sh th Fsh Fth). rewrite <- rh_is in E3.
  rewrite (Rabs_pos_eq (sh + th)) in E3 by lra.
  change (u f64_prec) with U in *.
  assert (B1 : Rabs (sl + tl) <= / 4503599627370496 * (1 + / 1099511627776) * (sh + th)).
  { apply Rle_trans with (1 := Rabs_triang _ _). lra. }
  assert (E3' := Rabs_le_inv _ _ E3).
  assert (B2 : Rabs rl <= U * (sh + th)).
  { rewrite rl_is. replace (sh + th - rh) with (- (rh - (sh + th))) by ring. now rewrite Rabs_Ropp. }
  assert (B3 : Rabs mid <= (1 + U) * (/ 4503599627370496 * (1 + / 1099511627776) * (sh + th))).
  { replace mid with ((mid - (sl + tl)) + (sl + tl)) by ring.
    apply Rle_trans with (1 := Rabs_triang _ _). lra. }
  assert (B4 : Rabs (rl + mid) <= 4 * U * (sh + th)).
  { apply Rle_trans with (1 := Rabs_triang _ _). lra. }
  assert (B4' : Rabs (rl + mid) <= U * (sh + th) + (1 + U) * (/ 4503599627370496 * (1 + / 1099511627776) * (sh + th))).
  { apply Rle_trans with (1 := Rabs_triang _ _). lra. }
  assert (B5 : Rabs add_low <= 5 * U * (sh + th)).
  { replace add_low with ((add_low - (rl + mid)) + (rl + mid)) by ring.
    apply Rle_trans with (1 := Rabs_triang _ _). lra. }
  assert (Frh : format64 rh) by (rewrite rh_is; apply format_RN).
  assert (Fal : format64 add_low) by apply format_RN.
  assert (Sum : add_high' + add_low' = rh + add_low).
  { apply fast_two_sum; trivial. rewrite (Rabs_pos_eq rh) by lra. apply Rle_trans with (1 := B5). lra. }
  assert (E4 := RN_add_error_back rh add_low Frh Fal). fold add_high' in E4.
  change (u f64_prec) with U in E4.
  assert (H0 : 0 <= add_high').
  { apply RN_ge_0. apply Rabs_le_inv in B5. lra. }
  rewrite (Rabs_pos_eq add_high' H0) in E4.
  assert (Low : Rabs add_low' <= U * add_high').
  { replace add_low' with (- (add_high' - (rh + add_low))) by (rewrite <- Sum; ring). now rewrite Rabs_Ropp. }
  split; [| now split].
  rewrite Sum.
  replace (rh + add_low - (sh + sl + th + tl)) with ((add_low - (rl + mid)) + (mid - (sl + tl)))
    by (rewrite rl_is; ring).
  apply Rle_trans with (1 := Rabs_triang _ _).
  assert (High : sh + th <= (1 + / 1125899906842624) * add_high').
  { apply Rabs_le_inv in E4. apply Rabs_le_inv in B5. lra. }
  change (bpow radix2 twofold_loss) with (/ 10141204801825835211973625643008).
  lra.
Qed.

End Add.

(** ** fr_sum_weighted, where nothing underflows: [e] is the error of the product, exactly *)
Theorem pair_weighted (w h l p e b q : R) :
  0 < w -> 0 <= h -> Rabs l <= U * h ->
  Rabs (p - w * h) <= U * (w * h) -> e = w * h - p ->
  Rabs (b - w * l) <= U * Rabs (w * l) -> Rabs (q - (e + b)) <= U * Rabs (e + b) ->
  Rabs (p + q - w * (h + l)) <= 3 / 4 * (p * bpow radix2 twofold_loss) /\ Rabs q <= kappa * p.
Proof.
  intros Hw Hh Hl Hp -> Hb Hq. unfold kappa.
  change (bpow radix2 twofold_loss) with (/ 10141204801825835211973625643008).
  assert (P := Rmult_le_pos w h ltac:(lra) Hh).
  assert (L : Rabs (w * l) <= U * (w * h)).
  { rewrite Rabs_mult, (Rabs_pos_eq w) by lra.
    apply Rle_trans with (w * (U * h)); [apply Rmult_le_compat_l; lra | right; ring]. }
  assert (Hp' := Rabs_le_inv _ _ Hp).
  assert (E : Rabs (w * h - p) <= U * (w * h)).
  { replace (w * h - p) with (- (p - w * h)) by ring. now rewrite Rabs_Ropp. }
  assert (B : Rabs b <= (1 + U) * (U * (w * h))).
  { replace b with ((b - w * l) + w * l) by ring. apply Rle_trans with (1 := Rabs_triang _ _). lra. }
  assert (S : Rabs (w * h - p + b) <= U * (w * h) + (1 + U) * (U * (w * h))).
  { apply Rle_trans with (1 := Rabs_triang _ _). lra. }
  assert (W : w * h <= (1 + / 1125899906842624) * p) by lra.
  split.
  - replace (p + q - w * (h + l)) with ((q - (w * h - p + b)) + (b - w * l)) by ring.
    apply Rle_trans with (1 := Rabs_triang _ _). lra.
  - replace q with ((q - (w * h - p + b)) + (w * h - p + b)) by ring.
    apply Rle_trans with (1 := Rabs_triang _ _). lra.
Qed.

(** ** fr_sum_sqrt, where nothing underflows

    [y] is the rounded root of [h], [a] the sum h + l, [r] its root, [c] the correction as computed
    by four additions, a product and a division. 2^-101 would do for 2^-100. *)
Theorem root_correction (h l y p e d1 d2 d3 c r : R) :
  0 < y -> 0 <= r -> r * r = h + l -> Rabs l <= U * h ->
  Rabs (sqrt h - y) <= U * y -> 0 <= h ->
  Rabs (p - y * y) <= U * (y * y) -> e = y * y - p ->
  Rabs (d1 - (h - p)) <= U * Rabs (h - p) ->
  Rabs (d2 - (d1 - e)) <= U * Rabs (d1 - e) ->
  Rabs (d3 - (d2 + l)) <= U * Rabs (d2 + l) ->
  Rabs (c - d3 / (2 * y)) <= U * Rabs (d3 / (2 * y)) ->
  Rabs (y + c - r) <= y * bpow radix2 (-101) /\ bpow radix2 (-101) <= bpow radix2 sqrt_loss.
Proof.
  intros Y R0 Rr Hl Hy Hh Hp -> H1 H2 H3 Hc.
  split; [| apply bpow_le; unfold sqrt_loss; lia].
  change (bpow radix2 (-101)) with (/ 2535301200456458802993406410752).
  set (Y2 := y * y) in *. assert (Y2p : 0 < Y2) by (apply Rmult_lt_0_compat; lra).
  (* h is near y^2 *)
  assert (Sq := sqrt_sqrt h Hh). set (s := sqrt h) in *. assert (S0 : 0 <= s) by apply sqrt_pos.
  apply Rabs_le_inv in Hy.
  assert (Hhy : (1 - 2 * U) * Y2 <= h <= (1 + 3 * U) * Y2).
  { assert (A1 : (1 - U) * y <= s) by lra. assert (A2 : s <= (1 + U) * y) by lra.
    assert (A3 : (1 - U) * y * ((1 - U) * y) <= s * s) by (apply Rmult_le_compat; nra).
    assert (A4 : s * s <= (1 + U) * y * ((1 + U) * y)) by (apply Rmult_le_compat; lra).
    rewrite Sq in *. unfold Y2.
    replace ((1 - U) * y * ((1 - U) * y)) with ((1 - U) * (1 - U) * (y * y)) in A3 by ring.
    replace ((1 + U) * y * ((1 + U) * y)) with ((1 + U) * (1 + U) * (y * y)) in A4 by ring.
    fold Y2 in A3, A4 |- *. split; lra. }
  assert (Hp' := Rabs_le_inv _ _ Hp).
  assert (D1 : Rabs (h - p) <= 5 * U * Y2) by (apply Rabs_le; lra).
  assert (H1' : Rabs (d1 - (h - p)) <= 5 * U * U * Y2) by lra. apply Rabs_le_inv in H1'.
  assert (D2 : Rabs (d1 - (Y2 - p)) <= 4 * U * Y2) by (apply Rabs_le; lra).
  assert (H2' : Rabs (d2 - (d1 - (Y2 - p))) <= 4 * U * U * Y2) by lra. apply Rabs_le_inv in H2'.
  assert (Ll : Rabs l <= 2 * U * Y2) by lra. apply Rabs_le_inv in Ll.
  assert (D3 : Rabs (d2 + l) <= 6 * U * Y2) by (apply Rabs_le; lra).
  assert (H3' : Rabs (d3 - (d2 + l)) <= 6 * U * U * Y2) by lra. apply Rabs_le_inv in H3'.
  (* d3 is near r^2 - y^2 *)
  assert (G : Rabs (d3 - (r * r - Y2)) <= 15 * U * U * Y2) by (apply Rabs_le; rewrite Rr; lra).
  assert (Dd : Rabs (r * r - Y2) <= 6 * U * Y2) by (apply Rabs_le; rewrite Rr; lra).
  assert (D3b : Rabs d3 <= 7 * U * Y2).
  { replace d3 with ((d3 - (r * r - Y2)) + (r * r - Y2)) by ring.
    apply Rle_trans with (1 := Rabs_triang _ _). lra. }
  (* the quotient *)
  assert (Q : forall x k, Rabs x <= k * Y2 -> Rabs (x / (2 * y)) <= k / 2 * y).
  { intros x k Hx. unfold Rdiv at 1. rewrite Rabs_mult, (Rabs_pos_eq (/ (2 * y))).
    2: { apply Rlt_le, Rinv_0_lt_compat. lra. }
    apply Rle_trans with (k * Y2 * / (2 * y)).
    - apply Rmult_le_compat_r; [apply Rlt_le, Rinv_0_lt_compat; lra | exact Hx].
    - right. unfold Y2. field. lra. }
  assert (C1 := Q d3 (7 * U) D3b).
  assert (C2 := Q (d3 - (r * r - Y2)) (15 * U * U) G).
  (* r - y, and the term that is left out *)
  assert (Ry : Rabs (r - y) <= 6 * U * y).
  { assert (F : (r - y) * (r + y) = r * r - Y2) by (unfold Y2; ring).
    assert (A : Rabs (r - y) * (r + y) <= 6 * U * y * y).
    { rewrite <- (Rabs_pos_eq (r + y)) by lra. rewrite <- Rabs_mult, F.
      apply Rle_trans with (1 := Dd). right. unfold Y2. ring. }
    apply Rmult_le_reg_r with y; [exact Y |].
    apply Rle_trans with (2 := A). apply Rmult_le_compat_l; [apply Rabs_pos | lra]. }
  assert (I : y + (r * r - Y2) / (2 * y) - r = (r - y) * (r - y) / (2 * y)).
  { unfold Y2. field. lra. }
  assert (O : Rabs ((r - y) * (r - y) / (2 * y)) <= 18 * U * U * y).
  { apply Rle_trans with (36 * U * U / 2 * y); [| lra]. apply Q.
    rewrite Rabs_mult. apply Rle_trans with (6 * U * y * (6 * U * y)).
    - apply Rmult_le_compat; trivial; apply Rabs_pos.
    - right. unfold Y2. ring. }
  replace (y + c - r) with ((c - d3 / (2 * y)) + (d3 - (r * r - Y2)) / (2 * y)
                            + (y + (r * r - Y2) / (2 * y) - r)) by (field; lra).
  rewrite I.
  apply Rle_trans with (1 := Rabs_triang _ _).
  assert (T := Rabs_triang (c - d3 / (2 * y)) ((d3 - (r * r - Y2)) / (2 * y))).
  assert (U * Rabs (d3 / (2 * y)) <= U * (7 * U / 2 * y)) by (apply Rmult_le_compat_l; lra).
  lra.
Qed.

(** An error of the sum that is at most half of it moves the root by less than error / y. *)
Theorem root_of_error (a d r r' y : R) :
  0 < y -> 0 <= r -> 0 <= r' -> r * r = a -> r' * r' = a + d ->
  Rabs d <= a / 2 -> (1 - / 1125899906842624) * y <= r ->
  Rabs (r' - r) <= 5 / 8 * (Rabs d / y).
Proof.
  intros Y R0 R1 Ra Rd D Hr.
  assert (Rp : 0 < r) by lra.
  assert (F : (r' - r) * (r' + r) = d) by lra.
  assert (L : 7 / 10 * r <= r').
  { apply Rnot_lt_le. intros N. assert (r' * r' <= 49 / 100 * (r * r)).
    { replace (49 / 100 * (r * r)) with (7 / 10 * r * (7 / 10 * r)) by field.
      apply Rmult_le_compat; lra. }
    apply Rabs_le_inv in D. assert (0 < r * r) by (apply Rmult_lt_0_compat; lra). lra. }
  assert (A : Rabs (r' - r) * (8 / 5 * y) <= Rabs d).
  { rewrite <- F, Rabs_mult, (Rabs_pos_eq (r' + r)) by lra.
    apply Rmult_le_compat_l; [apply Rabs_pos | lra]. }
  apply Rmult_le_reg_r with (8 / 5 * y); [lra |].
  apply Rle_trans with (1 := A). right. field. lra.
Qed.

(** Bounds are sums themselves, rounded [k] times: a bound with a factor 3/4 to spare stays one. *)
Theorem bounds_add (k : nat) (true_error bound computed : R) :
  0 <= bound -> true_error <= 3 / 4 * bound -> (1 - INR k * U) * bound <= computed ->
  (Z.of_nat k <= 2 ^ 50)%Z -> true_error <= computed.
Proof.
  intros B T C K. assert (K' : INR k <= 1125899906842624).
  { rewrite INR_IZR_INZ. now apply (IZR_le _ 1125899906842624). }
  assert (3 / 4 * bound <= (1 - INR k * U) * bound) by (apply Rmult_le_compat_r; lra).
  lra.
Qed.
