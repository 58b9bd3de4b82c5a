(* SPDX-License-Identifier: BSD-3-Clause *)

(** * Whole numbers of a power of two: what rounding does to them, and sums that lose nothing *)

From Coq Require Import Reals Psatz ZArith List Arith.
From Flocq Require Import Core.
From Fastreg Require Import Float Sum.
Local Open Scope R_scope.

Definition multiple (k : Z) (x : R) := exists m : Z, x = IZR m * bpow radix2 k.

Lemma multiple_0 k : multiple k 0.
Proof. exists 0%Z. ring. Qed.

Lemma multiple_add k x y : multiple k x -> multiple k y -> multiple k (x + y).
Proof. intros [m ->] [n ->]. exists (m + n)%Z. rewrite plus_IZR. ring. Qed.

Lemma multiple_sub k x y : multiple k x -> multiple k y -> multiple k (x - y).
Proof. intros [m ->] [n ->]. exists (m - n)%Z. rewrite minus_IZR. ring. Qed.

Lemma multiple_le k l x : (k <= l)%Z -> multiple l x -> multiple k x.
Proof.
  intros H [m ->]. exists (m * 2 ^ (l - k))%Z. rewrite mult_IZR.
  change 2%Z with (radix_val radix2). rewrite IZR_Zpower by lia.
  rewrite Rmult_assoc, <- bpow_plus. f_equal. f_equal. lia.
Qed.

(** The square of a whole number of 2^k. *)
Lemma multiple_mul k l x y : multiple k x -> multiple l y -> multiple (k + l) (x * y).
Proof. intros [m ->] [n ->]. exists (m * n)%Z. rewrite mult_IZR, bpow_plus. ring. Qed.

Section Grid.
Context {prec emin : Z}.
Context {prec_gt_0_ : Prec_gt_0 prec}.
Notation format := (format prec emin).
Notation RN := (RN prec emin).

Lemma multiple_of_format c x : format x -> bpow radix2 c <= Rabs x -> multiple (c - prec + 1) x.
Proof.
  intros F H. apply (multiple_le _ (cexp radix2 (FLT_exp emin prec) x)).
  - unfold cexp, FLT_exp. assert (c + 1 <= mag radix2 x)%Z; [| lia].
    apply mag_ge_bpow. replace (c + 1 - 1)%Z with c by ring. exact H.
  - exists (Ztrunc (scaled_mantissa radix2 (FLT_exp emin prec) x)). exact F.
Qed.

Lemma format_of_multiple k x :
  (emin <= k)%Z -> multiple k x -> Rabs x <= bpow radix2 (prec + k) -> format x.
Proof.
  intros Hk [m ->] H. apply format_multiple; [exact Hk |].
  rewrite Rabs_mult, (Rabs_pos_eq (bpow _ _)) in H by apply bpow_ge_0.
  rewrite bpow_plus in H. apply Rmult_le_reg_r in H; [| apply bpow_gt_0].
  rewrite <- abs_IZR in H. apply le_IZR.
  change 2%Z with (radix_val radix2). rewrite IZR_Zpower; [exact H |].
  assert (0 < prec)%Z by exact prec_gt_0_. lia.
Qed.

(** (a): a tree of additions loses nothing if its leaves are whole numbers of 2^k and their
    magnitudes sum to at most 2^(prec + k). *)
Theorem sum_exact k s : (emin <= k)%Z -> leaves (multiple k) s ->
  size s <= bpow radix2 (prec + k) ->
  computed prec emin s = exact s /\ multiple k (exact s).
Proof.
  intros Hk. induction s as [t | a IHa b IHb]; simpl; [tauto |].
  intros [La Lb] H. assert (Sa := size_ge_0 a). assert (Sb := size_ge_0 b).
  destruct (IHa La ltac:(lra)) as [-> Ma]. destruct (IHb Lb ltac:(lra)) as [-> Mb].
  assert (M := multiple_add k _ _ Ma Mb). split; [| exact M].
  apply RN_format. apply (format_of_multiple k); trivial.
  apply Rle_trans with (2 := H). apply (exact_le_size (Node a b)).
Qed.

(** The same for terms that are not negative, told by the computed sum. *)
Theorem natural_sum_exact k s : (emin <= k)%Z ->
  leaves (multiple k) s -> leaves natural s ->
  computed prec emin s < bpow radix2 (prec + k) ->
  computed prec emin s = exact s /\ multiple k (exact s).
Proof.
  intros Hk. induction s as [t | a IHa b IHb]; simpl; [tauto |].
  intros [La Lb] [Na Nb] H.
  assert (Pa := computed_ge_0 prec emin a Na). assert (Pb := computed_ge_0 prec emin b Nb).
  assert (B : computed prec emin a + computed prec emin b < bpow radix2 (prec + k)).
  { apply Rnot_le_lt. intros N. apply (Rlt_not_le _ _ H).
    apply RN_ge_format; [| exact N]. apply generic_format_bpow.
    unfold FLT_exp. assert (0 < prec)%Z by exact prec_gt_0_. lia. }
  destruct (IHa La Na ltac:(lra)) as [Ea Ma]. destruct (IHb Lb Nb ltac:(lra)) as [Eb Mb].
  rewrite Ea, Eb in *. assert (M := multiple_add k _ _ Ma Mb). split; [| exact M].
  apply RN_format. apply (format_of_multiple k); trivial. rewrite Rabs_pos_eq; lra.
Qed.

(** ** One step of an anchored lane

    The lane holds [h], within [2^c, 2^(c + 1)], and stays there. What the lane takes of the term is
    exact, and what it leaves, the rest, is at most half a last place of [2^c]. *)
Definition rest (h t : R) : R := t - (RN (h + t) - h).

Definition within (c : Z) (x : R) := bpow radix2 c <= x <= bpow radix2 (c + 1).

Lemma step_within c h t : (emin <= c - prec + 1)%Z -> within c (h + t) -> within c (RN (h + t)).
Proof.
  intros Hc [A B]. assert (0 < prec)%Z by exact prec_gt_0_.
  split; [apply RN_ge_format | apply RN_le_format]; trivial;
    apply generic_format_bpow; unfold FLT_exp; lia.
Qed.

Lemma within_multiple c x : format x -> within c x -> multiple (c - prec + 1) x.
Proof.
  intros F [A B]. apply multiple_of_format; [exact F |].
  rewrite Rabs_pos_eq; [exact A |]. apply Rle_trans with (2 := A). apply bpow_ge_0.
Qed.

Theorem step_difference_exact c h t : (emin <= c - prec + 1)%Z ->
  format h -> within c h -> within c (h + t) ->
  format (RN (h + t) - h) /\ multiple (c - prec + 1) (RN (h + t) - h).
Proof.
  intros Hc F H W. assert (S := step_within c h t Hc W).
  assert (M : multiple (c - prec + 1) (RN (h + t) - h)).
  { apply multiple_sub; apply within_multiple; trivial. apply format_RN. }
  split; [| exact M].
  apply (format_of_multiple (c - prec + 1)); trivial.
  replace (prec + (c - prec + 1))%Z with (c + 1)%Z by ring.
  rewrite bpow_plus. change (bpow radix2 1) with 2.
  destruct H as [H1 H2], S as [S1 S2].
  rewrite bpow_plus in H2, S2. change (bpow radix2 1) with 2 in H2, S2.
  apply Rabs_le. generalize (bpow_ge_0 radix2 c). lra.
Qed.

Theorem step_rest_bound c h t : (emin + prec <= c)%Z -> within c (h + t) ->
  Rabs (rest h t) <= bpow radix2 (c - prec).
Proof.
  intros Hc [A B]. unfold rest.
  replace (t - (RN (h + t) - h)) with (- (RN (h + t) - (h + t))) by ring.
  rewrite Rabs_Ropp. replace (c - prec)%Z with (c + 1 - prec - 1)%Z by ring.
  apply RN_error_below; [lia |]. rewrite Rabs_pos_eq; [exact B |].
  apply Rle_trans with (2 := A). apply bpow_ge_0.
Qed.

Theorem step_rest_format h t : format h -> format t -> format (rest h t).
Proof.
  intros Fh Ft. unfold rest.
  replace (t - (RN (h + t) - h)) with (- (RN (h + t) - (h + t))) by ring.
  apply format_opp. now apply RN_add_error_format.
Qed.

(** The rest is on the grid of the term: if the lane's last place is finer, there is no rest. *)
Theorem step_rest_multiple c k h t : (emin <= c - prec + 1)%Z ->
  format h -> within c h -> within c (h + t) -> multiple k t -> multiple k (rest h t).
Proof.
  intros Hc F H W M.
  destruct (Z.le_gt_cases k (c - prec + 1)) as [L | L].
  - unfold rest. apply multiple_sub; [exact M |].
    apply (multiple_le _ (c - prec + 1) _ L). now apply step_difference_exact.
  - assert (E : RN (h + t) = h + t).
    { apply RN_format. apply (format_of_multiple (c - prec + 1)); trivial.
      - apply multiple_add; [now apply within_multiple |].
        apply (multiple_le _ k); [lia | exact M].
      - replace (prec + (c - prec + 1))%Z with (c + 1)%Z by ring. destruct W as [W1 W2].
        rewrite Rabs_pos_eq; [exact W2 |]. apply Rle_trans with (2 := W1). apply bpow_ge_0. }
    unfold rest. rewrite E. replace (t - (h + t - h)) with 0 by ring. apply multiple_0.
Qed.

(** ** A lane *)

Fixpoint final (h : R) (l : list R) : R :=
  match l with nil => h | t :: l => final (RN (h + t)) l end.

Fixpoint rests (h : R) (l : list R) : list R :=
  match l with nil => nil | t :: l => rest h t :: rests (RN (h + t)) l end.

Lemma rests_length l : forall h, length (rests h l) = length l.
Proof. induction l as [| t l IH]; intros h; simpl; [reflexivity | now rewrite IH]. Qed.

(** Nothing is lost between the two. *)
Theorem lane_total l : forall h, final h l + total (rests h l) = h + total l.
Proof.
  induction l as [| t l IH]; intros h; simpl; [reflexivity |].
  unfold rest. specialize (IH (RN (h + t))). lra.
Qed.

Lemma final_format l : forall h, format h -> format (final h l).
Proof. induction l; intros h F; simpl; [exact F |]. apply IHl. apply format_RN. Qed.

(** Terms that are not negative: a lane only grows, so its end tells where it has been. *)
Lemma final_ge l : Forall natural l -> forall h, format h -> h <= final h l.
Proof.
  intros P. induction P as [| t l N P IH]; intros h F; simpl; [lra |].
  apply Rle_trans with (RN (h + t)); [| apply IH, format_RN].
  apply RN_ge_format; [exact F |]. unfold natural in N. lra.
Qed.

(** What holds of every rest of a lane that stays where it may be. *)
Definition stays (c : Z) := fix stays (h : R) (l : list R) : Prop :=
  match l with nil => True | t :: l => within c (h + t) /\ stays (RN (h + t)) l end.

Lemma stays_natural c l : (emin <= c)%Z -> Forall natural l -> forall h, format h ->
  bpow radix2 c <= h -> final h l < bpow radix2 (c + 1) -> stays c h l.
Proof.
  intros Hc P. assert (0 < prec)%Z by exact prec_gt_0_.
  induction P as [| t l N P IH]; intros h F A B; simpl in *; [exact I |].
  unfold natural in N.
  assert (S : h <= RN (h + t)) by (apply RN_ge_format; [exact F | lra]).
  split.
  - split; [lra |]. apply Rnot_lt_le. intros L.
    assert (bpow radix2 (c + 1) <= RN (h + t)).
    { apply RN_ge_format; [apply generic_format_bpow; unfold FLT_exp; lia | lra]. }
    assert (RN (h + t) <= final (RN (h + t)) l) by (apply final_ge; [exact P | apply format_RN]).
    lra.
  - apply IH; [apply format_RN | lra | exact B].
Qed.

Theorem lane_rests_bound c l : (emin + prec <= c)%Z -> forall h, stays c h l ->
  Forall (fun r => Rabs r <= bpow radix2 (c - prec)) (rests h l).
Proof.
  intros Hc. induction l as [| t l IH]; intros h S; simpl in *; constructor.
  - now apply step_rest_bound.
  - now apply IH.
Qed.

Theorem lane_rests_format l : Forall format l -> forall h, format h -> Forall format (rests h l).
Proof.
  intros F. induction F as [| t l Ft F IH]; intros h Fh; simpl; constructor.
  - now apply step_rest_format.
  - apply IH, format_RN.
Qed.

Theorem lane_rests_multiple c k l : (emin <= c - prec + 1)%Z -> Forall (multiple k) l ->
  forall h, format h -> within c h -> stays c h l -> Forall (multiple k) (rests h l).
Proof.
  intros Hc M. induction M as [| t l Mt M IH]; intros h F W S; simpl in *; constructor.
  - now apply (step_rest_multiple c).
  - apply IH; [apply format_RN | now apply step_within | tauto].
Qed.

Lemma magnitude_le l b : Forall (fun r => Rabs r <= b) l -> magnitude l <= INR (length l) * b.
Proof.
  intros H. induction H as [| t l Ht H IH]; [simpl; lra |].
  change (length (t :: l)) with (S (length l)). rewrite S_INR. simpl magnitude. lra.
Qed.

End Grid.
Arguments rest : clear implicits.
Arguments final : clear implicits.
Arguments rests : clear implicits.
Arguments stays : clear implicits.
