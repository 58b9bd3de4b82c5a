(* SPDX-License-Identifier: BSD-3-Clause *)

(** * The plain sum: f64 lanes, terms that f64 holds (kernels/loops.inc, fr_plain_loop)

    A lane gets one element of each step, and lane 0 of the first vector what is left over; the
    lanes are folded pairwise. C claims that the sum it computed is wrong by no more than

      computed * (n / STEP + 2 CHAINS + VL) * 2^-52. *)

From Coq Require Import Reals Psatz ZArith List Arith.
From Flocq Require Import Core.
From Fastreg Require Import Float Sum.
Local Open Scope R_scope.

(** ** What C states *)

(** loss = (n / STEP + plain_chains * CHAINS + VL) * 2^plain_exponent. *)
Definition plain_chains := 2%nat.
Definition plain_exponent := (-52)%Z.

Definition plain_steps (n chains lanes : nat) : nat :=
  (n / (lanes * chains) + plain_chains * chains + lanes)%nat.

(** ** The shape *)

(** Elements of a lane: one of each whole step, and one of each vector, or part of one, that is
    left. *)
Definition lane_length (n chains lanes : nat) : nat :=
  (n / (lanes * chains) + (n mod (lanes * chains) + lanes - 1) / lanes)%nat.

Lemma lane_length_le n chains lanes : (0 < chains)%nat -> (0 < lanes)%nat ->
  (lane_length n chains lanes <= n / (lanes * chains) + chains)%nat.
Proof.
  intros Hc Hl. unfold lane_length. apply Nat.add_le_mono_l.
  assert (M : (n mod (lanes * chains) < lanes * chains)%nat) by (apply Nat.mod_upper_bound; nia).
  assert (H : ((n mod (lanes * chains) + lanes - 1) / lanes < chains + 1)%nat); [| lia].
  apply Nat.div_lt_upper_bound; nia.
Qed.

(** 2^[c] chains of vectors of 2^[v] lanes: the vectors are folded, then the lanes of the last. *)
Definition plain_tree (c v : nat) (lane : nat -> nat -> list R) : tree :=
  pairwise v (fun j => pairwise c (fun k => chain (lane k j))).

Lemma plain_depth n c v lane :
  (forall k j, (length (lane k j) <= lane_length n (2 ^ c) (2 ^ v))%nat) ->
  (depth (plain_tree c v lane) <= n / (2 ^ v * 2 ^ c) + 2 ^ c + c + v)%nat.
Proof.
  intros H. unfold plain_tree. apply depth_pairwise. intros j _.
  apply depth_pairwise. intros k _. unfold chain. rewrite depth_chain_from. simpl.
  apply Nat.le_trans with (1 := H k j). apply lane_length_le; apply Nat.neq_0_lt_0, Nat.pow_nonzero; lia.
Qed.

Lemma exponent_lt_power c : (c + 1 <= 2 ^ c)%nat.
Proof. induction c as [| c IH]; simpl; lia. Qed.

(** The longest chain of additions has one fewer than C counts, at the least. *)
Lemma plain_depth_steps n c v lane :
  (forall k j, (length (lane k j) <= lane_length n (2 ^ c) (2 ^ v))%nat) ->
  (depth (plain_tree c v lane) + 2 <= plain_steps n (2 ^ c) (2 ^ v))%nat.
Proof.
  intros H. assert (D := plain_depth n c v lane H). unfold plain_steps, plain_chains.
  generalize (exponent_lt_power c) (exponent_lt_power v). lia.
Qed.

(** ** The bound *)

Lemma INR_le_bpow (K : nat) e : (0 <= e)%Z -> (Z.of_nat K <= 2 ^ e)%Z -> INR K <= bpow radix2 e.
Proof.
  intros P H. rewrite INR_IZR_INZ, <- (IZR_Zpower radix2) by exact P. now apply IZR_le.
Qed.

Section Loss.
Context {prec emin : Z}.
Context {prec_gt_0_ : Prec_gt_0 prec}.
Notation RN := (RN prec emin).
Notation u := (u prec).

(** At most K - 1 additions in a row, K up to 2^20 and K^2 u small: K u is a bound, with room for
    the rounding of the bound itself. So the factor 2 that C has to spare is not needed. *)
Theorem loss_tight (k K : nat) (x : R) :
  (k + 2 <= K)%nat -> INR K * (INR K + 1) * u <= 1 / 4 -> 0 <= x ->
  x = 0 \/ eta emin <= x * u / 4 ->
  (growth prec k - 1) * x <= RN (x * (INR K * u)).
Proof.
  intros Hk HK Hx Hsmall.
  generalize (@u_pos prec) (@u_le_half prec _). intros U U2.
  assert (Kk : INR k + 2 <= INR K).
  { apply le_INR in Hk. rewrite plus_INR in Hk. simpl in Hk. lra. }
  assert (K0 := pos_INR k).
  assert (G := growth_bound prec k). assert (G1 := growth_ge_1 prec k).
  destruct Hsmall as [-> | Hsmall].
  { rewrite Rmult_0_r, Rmult_0_l. apply RN_ge_0. lra. }
  assert (E := @RN_error prec emin _ (x * (INR K * u))).
  rewrite (Rabs_pos_eq (x * (INR K * u))) in E by (apply Rmult_le_pos; nra).
  apply Rabs_le_inv in E. destruct E as [E _].
  apply Rle_trans with (x * (INR K * u) - u * (x * (INR K * u)) - eta emin); [| lra].
  set (K' := INR K) in *. set (k' := INR k) in *. set (g := growth prec k) in *.
  assert (ku : k' * u <= 1 / 4).
  { apply Rle_trans with (2 := HK). apply Rmult_le_compat_r; [lra |]. nra. }
  assert (B : g - 1 <= (K' - 1) * u).
  { (* g (1 - k u) <= 1, so g - 1 <= k u g, and g <= 1 + 4/3 k u *)
    set (y := k' * u) in *. assert (Y : 0 <= y) by (apply Rmult_le_pos; lra).
    assert (g <= 1 + 2 * y).
    { apply Rnot_lt_le. intros N. assert ((1 + 2 * y) * (1 - y) < g * (1 - y)); [| nra].
      apply Rmult_lt_compat_r; lra. }
    assert (y * g <= y * (1 + 2 * y)) by (apply Rmult_le_compat_l; lra).
    assert (y <= (K' - 2) * u) by (apply Rmult_le_compat_r; lra).
    assert (y * y <= y * (K' * u)) by (apply Rmult_le_compat_l; [exact Y |]; nra).
    assert (y * (K' * u) <= K' * u * (K' * u)) by (apply Rmult_le_compat_r; nra).
    assert (K' * u * (K' * u) <= u / 4).
    { replace (K' * u * (K' * u)) with (K' * K' * u * u) by ring.
      apply Rle_trans with (1 / 4 * u); [apply Rmult_le_compat_r; nra | lra]. }
    nra. }
  assert ((g - 1) * x <= (K' - 1) * u * x) by (apply Rmult_le_compat_r; lra).
  assert (u * (x * (K' * u)) <= u * x / 4).
  { replace (u * (x * (K' * u))) with (u * x * (K' * u)) by ring.
    replace (u * x / 4) with (u * x * (1 / 4)) by field.
    apply Rmult_le_compat_l; nra. }
  nra.
Qed.

End Loss.

(** A sum of up to 2^45 elements of f16, bf16 or f32, or of their squares, on any level. A sum that
    is not 0 is at least 2^-298; a chunk has 2^13 elements at most. *)
Lemma plain_steps_small (K : nat) : (Z.of_nat K <= 2 ^ 24)%Z ->
  INR K * (INR K + 1) * u f64_prec <= 1 / 4.
Proof.
  intros H. apply (INR_le_bpow K 24) in H; [| lia].
  assert (K0 := pos_INR K).
  change (bpow radix2 24) with 16777216 in H.
  change (u f64_prec) with (/ 9007199254740992).
  apply Rle_trans with (16777216 * (16777216 + 1) * / 9007199254740992); [| lra].
  apply Rmult_le_compat_r; [lra |]. nra.
Qed.

Lemma not_tiny x k : (-900 <= k)%Z -> bpow radix2 k <= x -> eta f64_emin <= x * u f64_prec / 4.
Proof.
  intros Hk Hx. unfold eta, u, f64_emin, f64_prec.
  replace (x * bpow radix2 (- (53)) / 4) with (x * bpow radix2 (-55)).
  2: { replace (-55)%Z with (- (53) + -2)%Z by reflexivity. rewrite bpow_plus.
       change (bpow radix2 (-2)) with (/ 4). lra. }
  apply Rle_trans with (bpow radix2 k * bpow radix2 (-55)).
  - rewrite <- bpow_plus. apply bpow_le. lia.
  - apply Rmult_le_compat_r; [apply bpow_ge_0 | exact Hx].
Qed.

(** The bound with half of C's factor: 2^-53 for each counted step. *)
Theorem plain_sum_tight n c v lane :
  let s := plain_tree c v lane in
  let K := plain_steps n (2 ^ c) (2 ^ v) in
  (forall k j, (length (lane k j) <= lane_length n (2 ^ c) (2 ^ v))%nat) ->
  leaves natural s -> leaves format64 s ->
  (Z.of_nat K <= 2 ^ 24)%Z ->
  computed f64_prec f64_emin s = 0 \/ bpow radix2 (-298) <= computed f64_prec f64_emin s ->
  Rabs (computed f64_prec f64_emin s - exact s)
  <= RN64 (computed f64_prec f64_emin s * (INR K * u f64_prec)).
Proof.
  intros s K Hl P F HK Hs.
  apply Rle_trans with ((growth f64_prec (depth s) - 1) * computed f64_prec f64_emin s).
  { assert (E := sum_error_natural f64_prec f64_emin 0 s (Rle_refl 0)
                   (tame_format f64_prec f64_emin s P F)).
    rewrite Rmult_0_r, Rmult_0_r, Rplus_0_r in E. exact E. }
  apply (@loss_tight f64_prec f64_emin _).
  - now apply plain_depth_steps.
  - now apply plain_steps_small.
  - now apply computed_ge_0.
  - destruct Hs as [Hs | Hs]; [now left | right]. apply (not_tiny _ (-298)); [lia | exact Hs].
Qed.

(** What C claims: twice that. *)
Theorem plain_sum n c v lane :
  let s := plain_tree c v lane in
  let K := plain_steps n (2 ^ c) (2 ^ v) in
  (forall k j, (length (lane k j) <= lane_length n (2 ^ c) (2 ^ v))%nat) ->
  leaves natural s -> leaves format64 s ->
  (Z.of_nat K <= 2 ^ 24)%Z ->
  computed f64_prec f64_emin s = 0 \/ bpow radix2 (-298) <= computed f64_prec f64_emin s ->
  Rabs (computed f64_prec f64_emin s - exact s)
  <= RN64 (computed f64_prec f64_emin s * (INR K * bpow radix2 plain_exponent)).
Proof.
  intros s K Hl P F HK Hs.
  apply Rle_trans with (1 := plain_sum_tight n c v lane Hl P F HK Hs).
  apply RN_le. apply Rmult_le_compat_l; [now apply computed_ge_0 |].
  apply Rmult_le_compat_l; [apply pos_INR |].
  unfold u, plain_exponent. apply bpow_le. unfold f64_prec. lia.
Qed.
