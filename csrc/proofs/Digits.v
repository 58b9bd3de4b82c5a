(* SPDX-License-Identifier: BSD-3-Clause *)

(** * Digits and their carries (exact/digits.h), and limbs (exact/limbs.h)

    Digit i weighs 2^(b i), lowest first. A digit is a machine integer with more bits than its
    payload [b], so that additions need no carry. *)

From Coq Require Import ZArith List Lia.
Local Open Scope Z_scope.

(** ** What C states *)

Definition digit_bits := 32.
Definition digit_additions := 2 ^ 30.
Definition square_base := -2176.
Definition square_digits := 134.
Definition absolute_base := -1088.
Definition absolute_digits := 68.

Fixpoint value (b : Z) (l : list Z) : Z :=
  match l with nil => 0 | d :: l => d + 2 ^ b * value b l end.

Definition canonical (b : Z) (l : list Z) := Forall (fun d => 0 <= d < 2 ^ b) l.

(** fr_digits_carry_one: [v & mask] and [v >> bits] of two's complement. *)
Fixpoint carry (b c : Z) (l : list Z) : list Z * Z :=
  match l with
  | nil => (nil, c)
  | d :: l =>
      let v := d + c in
      let (l', c') := carry b (Z.shiftr v b) l in (Z.land v (Z.ones b) :: l', c')
  end.

Section Carry.
Variable b : Z.
Hypothesis b_pos : 0 < b.

Lemma power_pos : 0 < 2 ^ b.
Proof. apply Z.pow_pos_nonneg; lia. Qed.

Theorem carry_value l : forall c, let (l', c') := carry b c l in
  value b l' + 2 ^ (b * Z.of_nat (length l)) * c' = value b l + c
  /\ canonical b l' /\ length l' = length l.
Proof.
  induction l as [| d l IH]; intros c.
  { cbn [carry value length]. rewrite Z.mul_0_r. split; [lia |]. split; [constructor | reflexivity]. }
  cbn [carry]. specialize (IH (Z.shiftr (d + c) b)). destruct (carry b (Z.shiftr (d + c) b) l) as [l' c'].
  destruct IH as (E & K & L). cbn [value length].
  rewrite Z.land_ones by lia. rewrite Z.shiftr_div_pow2 in E by lia.
  assert (P := power_pos). assert (D := Z.div_mod (d + c) (2 ^ b) ltac:(lia)).
  assert (M := Z.mod_pos_bound (d + c) (2 ^ b) P).
  split; [| split; [constructor; assumption | lia]].
  replace (b * Z.of_nat (S (length l))) with (b + b * Z.of_nat (length l)) by lia.
  rewrite Z.pow_add_r by nia.
  apply (f_equal (fun z => 2 ^ b * z)) in E. rewrite !Z.mul_add_distr_l in E.
  rewrite Z.mul_assoc in E. lia.
Qed.

Lemma canonical_bounds l : canonical b l -> 0 <= value b l < 2 ^ (b * Z.of_nat (length l)).
Proof.
  induction 1 as [| d l D H IH]; simpl value.
  { simpl. rewrite Z.mul_0_r. lia. }
  change (length (d :: l)) with (S (length l)).
  replace (b * Z.of_nat (S (length l))) with (b + b * Z.of_nat (length l)) by lia.
  rewrite Z.pow_add_r by nia. assert (P := power_pos). nia.
Qed.

(** The carry out tells whether the number fits: neither negative nor too large. *)
Theorem carry_fits l : let (l', c') := carry b 0 l in
  c' = 0 <-> 0 <= value b l < 2 ^ (b * Z.of_nat (length l)).
Proof.
  assert (H := carry_value l 0). destruct (carry b 0 l) as [l' c']. destruct H as (E & K & L).
  assert (B := canonical_bounds l' K). rewrite L in B.
  split; [intros -> | intros R]; [lia |].
  assert (P : 0 < 2 ^ (b * Z.of_nat (length l))) by (apply Z.pow_pos_nonneg; nia). nia.
Qed.

(** Equal numbers have equal digits. *)
Theorem canonical_unique l : forall k, canonical b l -> canonical b k -> length l = length k ->
  value b l = value b k -> l = k.
Proof.
  induction l as [| d l IH]; intros [| e k] L K N V; try discriminate; [reflexivity |].
  inversion L as [| ? ? D L']. inversion K as [| ? ? E K']. subst. simpl in V, N.
  assert (P := power_pos).
  assert (d = e /\ value b l = value b k) as [-> W].
  { destruct (Z.div_mod_unique (2 ^ b) (value b l) (value b k) d e); [now left | now left | lia |].
    now split. }
  f_equal. apply IH; auto.
Qed.

(** Machine integers never overflow on the way: digits of at most [k] payloads, [k] + 1 below what
    [top] bits hold, carry at most [k] + 1. *)
Theorem carry_in_range k l : forall c, 0 <= k -> Forall (fun d => Z.abs d <= k * 2 ^ b) l ->
  Z.abs c <= k + 1 -> k + 1 <= 2 ^ b ->
  Forall (fun v => Z.abs v <= k * 2 ^ b + k + 1)
    ((fix sums c l := match l with nil => nil | d :: l => d + c :: sums (Z.shiftr (d + c) b) l end) c l).
Proof.
  induction l as [| d l IH]; intros c Hk F Hc Hb; constructor.
  - inversion F. lia.
  - inversion F as [| ? ? D F']. subst. apply IH; trivial.
    rewrite Z.shiftr_div_pow2 by lia. assert (P := power_pos).
    assert (A : - (k + 1) <= (d + c) / 2 ^ b) by (apply Z.div_le_lower_bound; nia).
    assert (B : (d + c) / 2 ^ b <= k + 1) by (apply Z.div_le_upper_bound; nia).
    lia.
Qed.

End Carry.

(** After [digit_additions] additions, each below 2^32 in any digit, to what was canonical. *)
Theorem additions_fit : forall d : Z, Z.abs d <= (digit_additions + 1) * 2 ^ digit_bits ->
  Z.abs d + (digit_additions + 1) + 1 < 2 ^ 63.
Proof. intros d. unfold digit_additions, digit_bits. lia. Qed.

(** Canonical states that a plain integer sum adds up: how many a digit holds, and no more. *)
Definition merges64 := 2 ^ 31.
Definition merges32_bits := 15.
Definition merges32 := 2 ^ merges32_bits - 1.

Theorem merges64_fit : merges64 * (2 ^ 32 - 1) < 2 ^ 63.
Proof. reflexivity. Qed.
Theorem merges32_fit : merges32 * (2 ^ 16 - 1) < 2 ^ 31.
Proof. reflexivity. Qed.
(** One more fits for 16 bits; two more do not. *)
Theorem merges32_most : (merges32 + 1) * (2 ^ 16 - 1) < 2 ^ 31 <= (merges32 + 2) * (2 ^ 16 - 1).
Proof. split; [reflexivity | discriminate]. Qed.
Theorem merges64_most : 2 ^ 63 <= (merges64 + 1) * (2 ^ 32 - 1).
Proof. discriminate. Qed.

(** The windows: the lowest bits of f64, and 2^63 of its largest numbers. *)
Theorem windows_fit :
  square_base <= 2 * -1074 /\ square_base + digit_bits * square_digits = 2112 /\ 2 * 1024 + 63 <= 2112 /\
  absolute_base <= -1074 /\ absolute_base + digit_bits * absolute_digits = 1088 /\ 1024 + 63 <= 1088.
Proof. unfold square_base, digit_bits, square_digits, absolute_base, absolute_digits. lia. Qed.
