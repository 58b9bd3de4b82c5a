(* SPDX-License-Identifier: BSD-3-Clause *)

(** * Trees of additions, and the two shapes that the loops have: chains and pairwise folds *)

From Coq Require Import Reals Psatz ZArith List Arith.
From Flocq Require Import Core Relative.
From Fastreg Require Import Float.
Local Open Scope R_scope.

Inductive tree := Leaf (t : R) | Node (a b : tree).

Section Sum.
Variables prec emin : Z.
Context {prec_gt_0_ : Prec_gt_0 prec}.
Notation format := (format prec emin).
Notation RN := (RN prec emin).
Notation u := (u prec).
Notation eta := (eta emin).

(** What the processor computes; a fused multiply-add is a node whose right side is a leaf that the
    format need not hold. *)
Fixpoint computed (s : tree) : R :=
  match s with Leaf t => t | Node a b => RN (computed a + computed b) end.

Fixpoint exact (s : tree) : R := match s with Leaf t => t | Node a b => exact a + exact b end.
Fixpoint size (s : tree) : R := match s with Leaf t => Rabs t | Node a b => size a + size b end.
Fixpoint depth (s : tree) : nat :=
  match s with Leaf _ => 0%nat | Node a b => S (Nat.max (depth a) (depth b)) end.
Fixpoint additions (s : tree) : nat :=
  match s with Leaf _ => 0%nat | Node a b => S (additions a + additions b) end.
Fixpoint leaves (P : R -> Prop) (s : tree) : Prop :=
  match s with Leaf t => P t | Node a b => leaves P a /\ leaves P b end.

Definition growth (k : nat) : R := (1 + u) ^ k.

Lemma growth_ge_1 k : 1 <= growth k.
Proof. apply pow_R1_Rle. generalize (@u_pos prec). lra. Qed.

Lemma growth_S k : growth (S k) = (1 + u) * growth k.
Proof. reflexivity. Qed.

Lemma growth_le k l : (k <= l)%nat -> growth k <= growth l.
Proof. intros H. apply Rle_pow; [generalize (@u_pos prec); lra | exact H]. Qed.

(** (1 + u)^k - 1 <= k u / (1 - k u), without the division. *)
Lemma growth_bound k : growth k * (1 - INR k * u) <= 1.
Proof.
  induction k as [| k H]; [unfold growth; simpl; lra |].
  rewrite growth_S, S_INR.
  generalize (@u_pos prec) (growth_ge_1 k) (pos_INR k). intros U G K.
  apply Rle_trans with (2 := H).
  replace ((1 + u) * growth k * (1 - (INR k + 1) * u))
    with (growth k * (1 - INR k * u - (INR k + 1) * (u * u))) by ring.
  apply Rmult_le_compat_l; [lra |]. nra.
Qed.

Lemma computed_format s : leaves format s -> format (computed s).
Proof. destruct s as [t | a b]; simpl; intros H; [exact H |]. apply format_RN; assumption. Qed.

Lemma size_ge_0 s : 0 <= size s.
Proof. induction s; simpl; [apply Rabs_pos | lra]. Qed.

Lemma exact_le_size s : Rabs (exact s) <= size s.
Proof.
  induction s; simpl; [lra |]. apply Rle_trans with (1 := Rabs_triang _ _). lra.
Qed.

(** Terms of either sign: the error is relative to the sum of magnitudes. *)
Theorem sum_error s :
  leaves format s -> Rabs (computed s - exact s) <= (growth (depth s) - 1) * size s.
Proof.
  induction s as [t | a IHa b IHb]; intros F.
  { simpl. unfold growth; simpl. rewrite Rminus_diag_eq, Rabs_R0 by reflexivity.
    generalize (Rabs_pos t). lra. }
  destruct F as [Fa Fb]. specialize (IHa Fa). specialize (IHb Fb).
  set (k := Nat.max (depth a) (depth b)).
  change (depth (Node a b)) with (S k). rewrite growth_S.
  assert (Ga : growth (depth a) <= growth k) by (apply growth_le, Nat.le_max_l).
  assert (Gb : growth (depth b) <= growth k) by (apply growth_le, Nat.le_max_r).
  generalize (size_ge_0 a) (size_ge_0 b) (@u_pos prec) (growth_ge_1 k). intros Sa Sb U G.
  assert (Ea : Rabs (computed a - exact a) <= (growth k - 1) * size a) by nra.
  assert (Eb : Rabs (computed b - exact b) <= (growth k - 1) * size b) by nra.
  assert (E : Rabs (computed a + computed b - (exact a + exact b))
              <= (growth k - 1) * (size a + size b)).
  { replace (computed a + computed b - (exact a + exact b))
      with ((computed a - exact a) + (computed b - exact b)) by ring.
    apply Rle_trans with (1 := Rabs_triang _ _). lra. }
  assert (A : Rabs (computed a + computed b) <= growth k * (size a + size b)).
  { replace (computed a + computed b)
      with ((computed a + computed b - (exact a + exact b)) + (exact a + exact b)) by ring.
    apply Rle_trans with (1 := Rabs_triang _ _).
    assert (Rabs (exact a + exact b) <= size a + size b) by apply (exact_le_size (Node a b)).
    lra. }
  assert (N := RN_add_error _ _ (computed_format a Fa) (computed_format b Fb)).
  simpl. fold (RN (computed a + computed b)).
  replace (RN (computed a + computed b) - (exact a + exact b))
    with ((RN (computed a + computed b) - (computed a + computed b))
          + (computed a + computed b - (exact a + exact b))) by ring.
  apply Rle_trans with (1 := Rabs_triang _ _).
  apply Rle_trans with (u * (growth k * (size a + size b)) + (growth k - 1) * (size a + size b)).
  - apply Rplus_le_compat; [| exact E].
    apply Rle_trans with (1 := N). apply Rmult_le_compat_l; lra.
  - right. ring.
Qed.

(** Terms that are not negative: the error is relative to the sum, the computed one or the exact
    one. [e] is what an addition may lose besides: 0 if the format holds every term, else [eta]. *)
Fixpoint tame (e : R) (s : tree) : Prop :=
  match s with
  | Leaf t => 0 <= t
  | Node a b => tame e a /\ tame e b
      /\ RN (computed a + computed b) <= (1 + u) * (computed a + computed b + e)
      /\ computed a + computed b <= (1 + u) * (RN (computed a + computed b) + e)
  end.

Definition natural (t : R) := 0 <= t.

Lemma computed_ge_0 s : leaves natural s -> 0 <= computed s.
Proof.
  induction s as [t | a IHa b IHb]; simpl; [trivial |]. intros [A B]. apply RN_ge_0.
  specialize (IHa A). specialize (IHb B). lra.
Qed.

Lemma exact_ge_0 s : leaves natural s -> 0 <= exact s.
Proof.
  induction s as [t | a IHa b IHb]; simpl; [trivial |]. intros [A B].
  specialize (IHa A). specialize (IHb B). lra.
Qed.

Lemma tame_format s : leaves natural s -> leaves format s -> tame 0 s.
Proof.
  induction s as [t | a IHa b IHb]; simpl; [trivial |].
  intros [Pa Pb] [Fa Fb]. specialize (IHa Pa Fa). specialize (IHb Pb Fb).
  generalize (computed_ge_0 a Pa) (computed_ge_0 b Pb). intros A B.
  assert (P : 0 <= RN (computed a + computed b)) by (apply RN_ge_0; lra).
  assert (N := RN_add_error _ _ (computed_format a Fa) (computed_format b Fb)).
  assert (M := RN_add_error_back _ _ (computed_format a Fa) (computed_format b Fb)).
  rewrite (Rabs_pos_eq (computed a + computed b)) in N by lra.
  rewrite (Rabs_pos_eq (RN (computed a + computed b))) in M by lra.
  apply Rabs_le_inv in N. apply Rabs_le_inv in M. repeat split; trivial; lra.
Qed.

Lemma tame_any s : leaves natural s -> tame eta s.
Proof.
  induction s as [t | a IHa b IHb]; simpl; [trivial |].
  intros [Pa Pb]. specialize (IHa Pa). specialize (IHb Pb).
  generalize (computed_ge_0 a Pa) (computed_ge_0 b Pb). intros A B.
  set (x := computed a + computed b). assert (X : 0 <= x) by (unfold x; lra).
  destruct (relative_error_N_FLT'_ex radix2 emin prec prec_gt_0_ (fun z => negb (Z.even z)) x)
    as (d & f & Hd & Hf & _ & E).
  fold (RN x) in E. rewrite u_ro_is_u in Hd. rewrite eta_is in Hf.
  apply Rabs_le_inv in Hd. apply Rabs_le_inv in Hf.
  generalize (@u_pos prec) (@eta_pos emin). intros U H.
  assert (V : u / (1 + u) * (1 + u) = u) by (field; lra).
  assert (W : 0 <= u / (1 + u)) by (apply Rle_mult_inv_pos; lra).
  set (v := u / (1 + u)) in *.
  repeat split; trivial.
  - rewrite E. assert (v <= u) by nra. nra.
  - apply Rle_trans with ((1 + u) * ((1 - v) * x)).
    + right. replace ((1 + u) * ((1 - v) * x)) with ((1 + u - v * (1 + u)) * x) by ring.
      rewrite V. ring.
    + apply Rmult_le_compat_l; [lra |]. rewrite E. nra.
Qed.

Lemma tame_bounds e s : 0 <= e -> tame e s ->
  computed s <= growth (depth s) * (exact s + INR (additions s) * e) /\
  exact s <= growth (depth s) * (computed s + INR (additions s) * e) /\
  0 <= exact s /\ 0 <= computed s.
Proof.
  intros He. induction s as [t | a IHa b IHb].
  { unfold growth; simpl. intros. repeat split; lra. }
  intros (Ta & Tb & H1 & H2). specialize (IHa Ta). specialize (IHb Tb).
  destruct IHa as (A1 & A2 & A3 & A4), IHb as (B1 & B2 & B3 & B4).
  set (k := Nat.max (depth a) (depth b)).
  change (depth (Node a b)) with (S k). rewrite growth_S.
  assert (Ga : growth (depth a) <= growth k) by (apply growth_le, Nat.le_max_l).
  assert (Gb : growth (depth b) <= growth k) by (apply growth_le, Nat.le_max_r).
  change (additions (Node a b)) with (S (additions a + additions b)).
  rewrite S_INR, plus_INR.
  generalize (pos_INR (additions a)) (pos_INR (additions b)). intros Na Nb.
  set (na := INR (additions a)) in *. set (nb := INR (additions b)) in *.
  generalize (@u_pos prec) (growth_ge_1 k). intros U G.
  assert (Pa : 0 <= na * e) by nra. assert (Pb : 0 <= nb * e) by nra.
  change (computed (Node a b)) with (RN (computed a + computed b)).
  change (exact (Node a b)) with (exact a + exact b).
  assert (P : 0 <= RN (computed a + computed b)) by (apply RN_ge_0; lra).
  assert (A1' : computed a <= growth k * (exact a + na * e)) by nra.
  assert (B1' : computed b <= growth k * (exact b + nb * e)) by nra.
  assert (A2' : exact a <= growth k * (computed a + na * e)) by nra.
  assert (B2' : exact b <= growth k * (computed b + nb * e)) by nra.
  repeat split; [| | lra | exact P].
  - apply Rle_trans with (1 := H1). rewrite Rmult_assoc. apply Rmult_le_compat_l; [lra |].
    assert (e <= growth k * e) by nra. lra.
  - apply Rle_trans with (growth k * (computed a + computed b + (na + nb) * e)); [lra |].
    rewrite (Rmult_comm (1 + u)), Rmult_assoc. apply Rmult_le_compat_l; [lra |].
    assert ((na + nb) * e <= (1 + u) * ((na + nb) * e)) by nra.
    lra.
Qed.

(** The error relative to the computed sum, which is what C multiplies. *)
Theorem sum_error_natural e s : 0 <= e -> tame e s ->
  Rabs (computed s - exact s)
  <= (growth (depth s) - 1) * computed s + growth (depth s) * (INR (additions s) * e).
Proof.
  intros He T. destruct (tame_bounds e s He T) as (A & B & P & Q).
  generalize (growth_ge_1 (depth s)) (pos_INR (additions s)). intros G N.
  assert (0 <= INR (additions s) * e) by nra.
  apply Rabs_le. split; nra.
Qed.

End Sum.

(** ** Shapes *)

(** One lane: terms added one after another to what stands there. *)
Definition chain_from (s : tree) (l : list R) : tree :=
  fold_left (fun a t => Node a (Leaf t)) l s.
Definition chain (l : list R) : tree := chain_from (Leaf 0) l.

Fixpoint total (l : list R) : R := match l with nil => 0 | t :: l => t + total l end.
Fixpoint magnitude (l : list R) : R := match l with nil => 0 | t :: l => Rabs t + magnitude l end.

Lemma depth_chain_from l : forall s, depth (chain_from s l) = (depth s + length l)%nat.
Proof.
  induction l as [| t l IH]; intros s; simpl; [lia |].
  rewrite IH. simpl. rewrite Nat.max_0_r. lia.
Qed.

Lemma exact_chain_from l : forall s, exact (chain_from s l) = exact s + total l.
Proof. induction l as [| t l IH]; intros s; simpl; [lra |]. rewrite IH. simpl. lra. Qed.

Lemma size_chain_from l : forall s, size (chain_from s l) = size s + magnitude l.
Proof. induction l as [| t l IH]; intros s; simpl; [lra |]. rewrite IH. simpl. lra. Qed.

Lemma additions_chain_from l : forall s,
  additions (chain_from s l) = (additions s + length l)%nat.
Proof. induction l as [| t l IH]; intros s; simpl; [lia |]. rewrite IH. simpl. lia. Qed.

Lemma leaves_chain_from P l : forall s,
  leaves P s -> Forall P l -> leaves P (chain_from s l).
Proof.
  induction l as [| t l IH]; intros s S L; simpl; [exact S |].
  inversion L. apply IH; [split; assumption | assumption].
Qed.

(** 2^[v] lanes: lane k takes lane k + half, until one is left. This is fr_fold and fr_across. *)
Fixpoint pairwise (v : nat) (lane : nat -> tree) : tree :=
  match v with
  | O => lane 0%nat
  | S v => pairwise v (fun k => Node (lane k) (lane (k + 2 ^ v)%nat))
  end.

Fixpoint over (n : nat) (f : nat -> R) : R :=
  match n with O => 0 | S n => over n f + f n end.

Lemma over_ext n f g : (forall i, (i < n)%nat -> f i = g i) -> over n f = over n g.
Proof.
  induction n as [| n IH]; intros H; simpl; [reflexivity |].
  rewrite IH, (H n) by (intros; try apply H; lia). reflexivity.
Qed.

Lemma over_le n f g : (forall i, (i < n)%nat -> f i <= g i) -> over n f <= over n g.
Proof.
  induction n as [| n IH]; intros H; simpl; [lra |].
  apply Rplus_le_compat; [apply IH; intros; apply H; lia | apply H; lia].
Qed.

Lemma over_split n m f : over (n + m) f = over n f + over m (fun i => f (i + n)%nat).
Proof.
  induction m as [| m IH]; simpl; [rewrite Nat.add_0_r; lra |].
  rewrite Nat.add_succ_r. simpl. rewrite IH. rewrite (Nat.add_comm m n). lra.
Qed.

Lemma over_plus n f g : over n (fun i => f i + g i) = over n f + over n g.
Proof. induction n as [| n IH]; simpl; [lra | rewrite IH; lra]. Qed.

Lemma over_scale n c f : over n (fun i => c * f i) = c * over n f.
Proof. induction n as [| n IH]; simpl; [lra | rewrite IH; lra]. Qed.

Lemma over_const n c : over n (fun _ => c) = INR n * c.
Proof. induction n as [| n IH]; [simpl; lra |]. rewrite S_INR. simpl. rewrite IH. lra. Qed.

Lemma over_ge_0 n f : (forall i, (i < n)%nat -> 0 <= f i) -> 0 <= over n f.
Proof.
  intros H. apply Rle_trans with (over n (fun _ => 0)); [rewrite over_const; lra |].
  apply over_le. exact H.
Qed.

Lemma depth_pairwise v d : forall lane,
  (forall i, (i < 2 ^ v)%nat -> (depth (lane i) <= d)%nat) ->
  (depth (pairwise v lane) <= d + v)%nat.
Proof.
  revert d. induction v as [| v IH]; intros d lane H; simpl.
  { rewrite Nat.add_0_r. apply H. simpl. lia. }
  rewrite Nat.add_succ_r. change (S (d + v)) with (S d + v)%nat. apply IH.
  intros i Hi. simpl. apply le_n_S. apply Nat.max_lub; apply H; simpl; lia.
Qed.

Lemma leaves_pairwise P v : forall lane,
  (forall i, (i < 2 ^ v)%nat -> leaves P (lane i)) -> leaves P (pairwise v lane).
Proof.
  induction v as [| v IH]; intros lane H; simpl; [apply H; simpl; lia |].
  apply IH. intros i Hi. split; apply H; simpl; lia.
Qed.

Lemma exact_pairwise v : forall lane,
  exact (pairwise v lane) = over (2 ^ v) (fun i => exact (lane i)).
Proof.
  induction v as [| v IH]; intros lane; [simpl; lra |].
  change (pairwise (S v) lane) with (pairwise v (fun k => Node (lane k) (lane (k + 2 ^ v)%nat))).
  rewrite IH. simpl exact. rewrite over_plus.
  replace (2 ^ S v)%nat with (2 ^ v + 2 ^ v)%nat by (simpl; lia).
  now rewrite over_split.
Qed.

Lemma size_pairwise v : forall lane,
  size (pairwise v lane) = over (2 ^ v) (fun i => size (lane i)).
Proof.
  induction v as [| v IH]; intros lane; [simpl; lra |].
  change (pairwise (S v) lane) with (pairwise v (fun k => Node (lane k) (lane (k + 2 ^ v)%nat))).
  rewrite IH. simpl size. rewrite over_plus.
  replace (2 ^ S v)%nat with (2 ^ v + 2 ^ v)%nat by (simpl; lia).
  now rewrite over_split.
Qed.

Lemma additions_pairwise v : forall lane,
  INR (additions (pairwise v lane))
  = over (2 ^ v) (fun i => INR (additions (lane i))) + INR (2 ^ v) - 1.
Proof.
  induction v as [| v IH]; intros lane; [simpl; lra |].
  change (pairwise (S v) lane) with (pairwise v (fun k => Node (lane k) (lane (k + 2 ^ v)%nat))).
  rewrite IH.
  replace (2 ^ S v)%nat with (2 ^ v + 2 ^ v)%nat by (simpl; lia).
  rewrite over_split, plus_INR.
  rewrite (over_ext _ _ (fun i => INR (additions (lane i)) + INR (additions (lane (i + 2 ^ v)%nat)) + 1)).
  - rewrite !over_plus, over_const. lra.
  - intros. change (additions (Node (lane i) (lane (i + 2 ^ v)%nat)))
      with (S (additions (lane i) + additions (lane (i + 2 ^ v)%nat))).
    rewrite S_INR, plus_INR. lra.
Qed.
