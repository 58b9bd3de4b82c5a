(* SPDX-License-Identifier: BSD-3-Clause *)

(** * Rounding an integer with a sticky bit, and its root (exact/formats.h, exact/limbs.h) *)

From Coq Require Import Reals Psatz ZArith.
From Flocq Require Import Core.
From Fastreg Require Import Float.

(** fr_round_integer once [shift], the number of bits that go, is known and positive. *)
Definition rounded (m shift : Z) (sticky : bool) : Z :=
  let half := (2 ^ (shift - 1))%Z in
  let rest := (m mod 2 ^ shift)%Z in
  let q := (m / 2 ^ shift)%Z in
  if ((half <? rest)%Z || ((rest =? half)%Z && (sticky || Z.odd q)))%bool then (q + 1)%Z else q.

Local Open Scope R_scope.

(** It is the nearest integer, ties to even, of (m + s) / 2^shift, whatever s is: nothing if there is
    no sticky bit, else anything between 0 and 1. One bit below the last that stays is enough. *)
Theorem rounded_nearest (m shift : Z) (sticky : bool) (s : R) :
  (0 < shift)%Z ->
  (if sticky then 0 < s < 1 else s = 0) ->
  ZnearestE ((IZR m + s) / IZR (2 ^ shift)) = rounded m shift sticky.
Proof.
  intros Hs S.
  assert (P : (0 < 2 ^ (shift - 1))%Z) by (apply Z.pow_pos_nonneg; lia).
  assert (Two : (2 ^ shift = 2 * 2 ^ (shift - 1))%Z).
  { rewrite <- Z.pow_succ_r by lia. f_equal. lia. }
  unfold rounded. set (half := (2 ^ (shift - 1))%Z) in *. rewrite Two.
  assert (D := Z.div_mod m (2 * half) ltac:(lia)).
  assert (M := Z.mod_pos_bound m (2 * half) ltac:(lia)).
  set (q := (m / (2 * half))%Z) in *. set (r := (m mod (2 * half))%Z) in *.
  assert (S1 : 0 <= s < 1) by (destruct sticky; lra).
  assert (Hp : 0 < IZR half) by now apply (IZR_lt 0).
  assert (R0 : 0 <= IZR r) by (apply (IZR_le 0); lia).
  assert (R1 : IZR r + 1 <= 2 * IZR half).
  { rewrite <- (plus_IZR r 1), <- (mult_IZR 2 half). apply IZR_le. lia. }
  set (x := (IZR m + s) / IZR (2 * half)).
  assert (X : (x - IZR q) * (2 * IZR half) = IZR r + s).
  { unfold x. rewrite D at 1. rewrite plus_IZR, !mult_IZR. field. lra. }
  assert (F : Zfloor x = q).
  { apply Zfloor_imp. rewrite plus_IZR. split.
    - apply Rnot_lt_le. intros N. assert ((x - IZR q) * (2 * IZR half) < 0); [nra | lra].
    - apply Rnot_le_lt. intros N. assert (2 * IZR half <= (x - IZR q) * (2 * IZR half)); [nra | lra]. }
  assert (Compare : forall b, Rcompare (x - IZR q) (/ 2) = b <-> Rcompare (IZR r + s) (IZR half) = b).
  { intros b. rewrite <- X, <- (Rcompare_mult_r (2 * IZR half) (x - IZR q) (/ 2)) by lra.
    replace (/ 2 * (2 * IZR half)) with (IZR half) by field. tauto. }
  unfold Znearest. rewrite F.
  assert (Up : Zceil x = (q + 1)%Z \/ (Zceil x = q /\ IZR r + s = 0)).
  { destruct (Req_dec (IZR r + s) 0) as [Z | N].
    - right. split; [| exact Z]. rewrite Z in X.
      assert (E : x = IZR q) by (apply Rmult_integral in X; lra). rewrite E. apply Zceil_IZR.
    - left. rewrite Zceil_floor_neq; [now rewrite F |]. rewrite F. intros E.
      apply N. rewrite <- X, <- E. ring. }
  destruct (Z.ltb_spec half r) as [A | A]; simpl.
  - (* beyond half *)
    assert (C : Rcompare (x - IZR q) (/ 2) = Gt).
    { apply Compare. apply Rcompare_Gt. apply IZR_lt in A. lra. }
    rewrite C. destruct Up as [-> | [_ Z]]; [reflexivity |]. apply IZR_lt in A. lra.
  - destruct (Z.eqb_spec r half) as [B | B]; simpl.
    + destruct sticky; simpl.
      * assert (C : Rcompare (x - IZR q) (/ 2) = Gt).
        { apply Compare. apply Rcompare_Gt. rewrite B. lra. }
        rewrite C. destruct Up as [-> | [_ Z]]; [reflexivity |]. rewrite B in Z. lra.
      * assert (C : Rcompare (x - IZR q) (/ 2) = Eq).
        { apply Compare. apply Rcompare_Eq. rewrite B. lra. }
        rewrite C. rewrite <- Z.negb_even. destruct (Z.even q); simpl; [reflexivity |].
        destruct Up as [-> | [_ Z]]; [reflexivity |]. rewrite B in Z. lra.
    + assert (C : Rcompare (x - IZR q) (/ 2) = Lt).
      { apply Compare. apply Rcompare_Lt.
        assert (IZR r + 1 <= IZR half) by (rewrite <- (plus_IZR r 1); apply IZR_le; lia). lra. }
      now rewrite C.
Qed.

(** So fr_round_integer returns the correctly rounded number: [last] is the exponent of the last
    place that the format has there, [e] that of m's lowest bit. *)
Theorem round_integer_correct (prec emin m e last : Z) (sticky : bool) (s : R) :
  (0 < last - e)%Z -> (if sticky then 0 < s < 1 else s = 0) ->
  let x := (IZR m + s) * bpow radix2 e in
  cexp radix2 (FLT_exp emin prec) x = last ->
  RN prec emin x = IZR (rounded m (last - e) sticky) * bpow radix2 last.
Proof.
  intros Hs S x E. unfold RN, round, F2R. simpl. rewrite E. f_equal. f_equal.
  rewrite <- (rounded_nearest m (last - e) sticky s Hs S). f_equal.
  unfold scaled_mantissa. rewrite E. unfold x.
  change 2%Z with (radix_val radix2). rewrite IZR_Zpower by lia.
  unfold Rdiv. rewrite <- bpow_opp, Rmult_assoc, <- bpow_plus. f_equal. f_equal. ring.
Qed.

(** fr_total_round_sqrt: the root of a number N 4^k + R, 0 <= R < 4^k, begins with the root of N. *)
Local Open Scope Z_scope.

Theorem root_of_window (n k r : Z) : 0 <= n -> 0 <= k -> 0 <= r < 4 ^ k ->
  Z.sqrt (n * 4 ^ k + r) / 2 ^ k = Z.sqrt n.
Proof.
  intros Hn Hk Hr.
  assert (P : 0 < 2 ^ k) by (apply Z.pow_pos_nonneg; lia).
  assert (F : 4 ^ k = 2 ^ k * 2 ^ k).
  { change 4 with (2 * 2). now rewrite Z.pow_mul_l. }
  rewrite F in *. set (t := 2 ^ k) in *.
  destruct (Z.sqrt_spec n Hn) as [A B]. set (y := Z.sqrt n) in *.
  assert (Y : 0 <= y) by apply Z.sqrt_nonneg.
  destruct (Z.sqrt_spec (n * (t * t) + r) ltac:(nia)) as [C D].
  set (z := Z.sqrt (n * (t * t) + r)) in *.
  assert (Z0 : 0 <= z) by apply Z.sqrt_nonneg.
  symmetry. apply (Z.div_unique z t y (z - t * y)); [left | ring].
  assert (L : t * y <= z).
  { assert (t * y * (t * y) < Z.succ z * Z.succ z); [| nia].
    apply Z.le_lt_trans with (2 := D). nia. }
  assert (U : z < t * Z.succ y); [| lia].
  assert (z * z < t * Z.succ y * (t * Z.succ y)); [| nia].
  apply Z.le_lt_trans with (1 := C). nia.
Qed.

(** The sticky bit: the root is exact if its square is the window and nothing lies below. *)
Theorem root_sticky (n k r : Z) : 0 <= n -> 0 <= k -> 0 <= r < 4 ^ k ->
  let y := Z.sqrt n in
  (y * y = n /\ r = 0 <-> y * 2 ^ k * (y * 2 ^ k) = n * 4 ^ k + r).
Proof.
  intros Hn Hk Hr y.
  assert (P : 0 < 2 ^ k) by (apply Z.pow_pos_nonneg; lia).
  assert (F : 4 ^ k = 2 ^ k * 2 ^ k).
  { change 4 with (2 * 2). now rewrite Z.pow_mul_l. }
  rewrite F in *. set (t := 2 ^ k) in *.
  destruct (Z.sqrt_spec n Hn) as [A B]. fold y in A, B.
  split; [intros [E ->]; rewrite <- E; ring | intros E].
  clearbody y t. assert (E2 : y * y * (t * t) = n * (t * t) + r) by (rewrite <- E; ring).
  assert (E3 : y * y = n) by nia. split; [exact E3 | nia].
Qed.

(** 127 or 128 bits of a number, cut at an even exponent, give a root of 64 bits. *)
Theorem root_has_64_bits (n : Z) : 2 ^ 126 <= n < 2 ^ 128 -> 2 ^ 63 <= Z.sqrt n < 2 ^ 64.
Proof.
  intros H. destruct (Z.sqrt_spec n ltac:(lia)) as [A B].
  assert (Y := Z.sqrt_nonneg n). split.
  - apply Z.nlt_ge. intros N. assert (Z.succ (Z.sqrt n) * Z.succ (Z.sqrt n) <= 2 ^ 63 * 2 ^ 63) by nia. lia.
  - apply Z.nle_gt. intros N. assert (2 ^ 64 * 2 ^ 64 <= Z.sqrt n * Z.sqrt n) by nia. lia.
Qed.
