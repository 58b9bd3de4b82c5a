(* SPDX-License-Identifier: BSD-3-Clause *)

(** * Anchored sums (exact/anchored.h)

    2^[v] lanes start at the anchor C = 2^[c]. Lane i gets the numbers [q i] for its [high]; what
    [high] leaves of them goes to its [low]. *)

From Coq Require Import Reals Psatz ZArith List Arith.
From Flocq Require Import Core.
From Fastreg Require Import Float Sum Grid.
Local Open Scope R_scope.

(** ** What C states *)

(** error = C 2^anchored_exponent (n + 1) (m + anchored_rests + anchored_levels * levels). *)
Definition anchored_exponent := (-106)%Z.
Definition anchored_rests := 4%nat.
Definition anchored_levels := 2%nat.
Definition anchor_least := (-850)%Z.
Definition anchor_most := 1000%Z.

Notation RN := (RN f64_prec f64_emin).
Notation final := (final f64_prec f64_emin).
Notation rests := (rests f64_prec f64_emin).
Notation computed := (computed f64_prec f64_emin).
Notation stays := (stays f64_prec f64_emin).

Section Anchored.
Variables (c : Z) (v : nat).
Hypothesis anchor : (anchor_least <= c)%Z.
Notation C := (bpow radix2 c).
Variable q : nat -> list R.
Hypothesis natural_q : forall i, (i < 2 ^ v)%nat -> Forall natural (q i).

(** The total that the fold computes from the lanes' [high], less C each. *)
Definition highs := pairwise v (fun i => Leaf (RN (final C (q i) - C))).

Lemma format_C : format64 C.
Proof. apply generic_format_bpow. unfold FLT_exp, f64_emin, f64_prec, anchor_least in *. lia. Qed.

(** A fold is at least each of its leaves, which the format holds. *)
Lemma leaf_le_fold w : forall f : nat -> tree,
  (forall i, (i < 2 ^ w)%nat -> leaves natural (f i) /\ format64 (computed (f i))) ->
  forall i, (i < 2 ^ w)%nat -> computed (f i) <= computed (pairwise w f).
Proof.
  induction w as [| w IH]; intros f N i Hi.
  { simpl in *. replace i with 0%nat by lia. lra. }
  change (pairwise (S w) f) with (pairwise w (fun k => Node (f k) (f (k + 2 ^ w)%nat))).
  set (g := fun k => Node (f k) (f (k + 2 ^ w)%nat)).
  assert (Hg : forall j, (j < 2 ^ w)%nat -> leaves natural (g j) /\ format64 (computed (g j))).
  { intros j Hj. split; [| apply format_RN]. split; apply N; simpl; lia. }
  set (j := if (i <? 2 ^ w)%nat then i else (i - 2 ^ w)%nat).
  assert (Hj : (j < 2 ^ w)%nat /\ (i = j \/ i = j + 2 ^ w)%nat).
  { unfold j. destruct (Nat.ltb_spec i (2 ^ w)); simpl in Hi; split; lia. }
  clearbody j.
  apply Rle_trans with (computed (g j)); [| apply IH; tauto].
  destruct Hj as [Hj Hij].
  destruct (N j ltac:(simpl; lia)) as [N1 F1], (N (j + 2 ^ w)%nat ltac:(simpl; lia)) as [N2 F2].
  apply (computed_ge_0 f64_prec f64_emin) in N1. apply (computed_ge_0 f64_prec f64_emin) in N2.
  unfold g. simpl.
  destruct Hij as [-> | ->]; apply RN_ge_format; trivial; lra.
Qed.

Lemma lane_ge i : (i < 2 ^ v)%nat -> C <= final C (q i).
Proof. intros H. apply final_ge; [now apply natural_q | apply format_C]. Qed.

(** fr_anchored_fold: a total below the anchor proves that the anchor was large enough for every
    lane, and that the total is exact. *)
Theorem anchored_high : computed highs < C ->
  (forall i, (i < 2 ^ v)%nat -> stays c C (q i)) /\
  computed highs = over (2 ^ v) (fun i => final C (q i) - C).
Proof.
  intros H. unfold anchor_least in anchor.
  assert (P : forall i, (i < 2 ^ v)%nat -> final C (q i) < bpow radix2 (c + 1)).
  { intros i Hi. apply Rnot_le_lt. intros L. apply (Rlt_not_le _ _ H).
    apply Rle_trans with (RN (final C (q i) - C)).
    - apply RN_ge_format; [apply format_C |]. rewrite bpow_plus in L.
      change (bpow radix2 1) with 2 in L. lra.
    - apply (leaf_le_fold v (fun i => Leaf (RN (final C (q i) - C)))); [| exact Hi].
      intros j Hj. simpl. split; [| apply format_RN].
      apply RN_ge_0. generalize (lane_ge j Hj). lra. }
  split.
  { intros i Hi. apply stays_natural; trivial.
    - unfold f64_emin. lia.
    - now apply natural_q.
    - apply format_C.
    - apply Rle_refl.
    - now apply P. }
  assert (M : forall i, (i < 2 ^ v)%nat ->
            RN (final C (q i) - C) = final C (q i) - C /\ multiple (c - 52) (final C (q i) - C)).
  { intros i Hi. generalize (lane_ge i Hi) (P i Hi). intros A B.
    assert (M : multiple (c - 52) (final C (q i) - C)).
    { apply multiple_sub.
      - replace (c - 52)%Z with (c - f64_prec + 1)%Z by (unfold f64_prec; ring).
        apply (@within_multiple f64_prec f64_emin _); [apply final_format, format_C |].
        unfold within. generalize (bpow_ge_0 radix2 c). lra.
      - apply (multiple_le _ c); [lia |]. exists 1%Z. ring. }
    split; [| exact M]. apply RN_format.
    apply (@format_of_multiple f64_prec f64_emin _ (c - 52)); trivial; [unfold f64_emin; lia |].
    replace (f64_prec + (c - 52))%Z with (c + 1)%Z by (unfold f64_prec; ring).
    assert (Z := bpow_ge_0 radix2 c).
    rewrite Rabs_pos_eq; lra. }
  assert (E : computed highs = exact highs).
  { apply (@natural_sum_exact f64_prec f64_emin _ (c - 53)); [unfold f64_emin; lia | | |].
    - apply leaves_pairwise. intros i Hi. simpl. destruct (M i Hi) as [-> M'].
      apply (multiple_le _ (c - 52)); [lia | exact M'].
    - apply leaves_pairwise. intros i Hi. apply RN_ge_0. generalize (lane_ge i Hi). lra.
    - replace (f64_prec + (c - 53))%Z with c by (unfold f64_prec; ring). exact H. }
  rewrite E. unfold highs. rewrite exact_pairwise. apply over_ext.
  intros i Hi. simpl. now apply M.
Qed.

(** ** The bound *)

Variable rho : nat -> list R. (* what [low] gets *)
Variables n m : nat.
Hypothesis rho_format : forall i, (i < 2 ^ v)%nat -> Forall format64 (rho i).
Hypothesis rho_length : forall i, (i < 2 ^ v)%nat -> (length (rho i) <= m)%nat.

Definition lows := pairwise v (fun i => chain (rho i)).

Lemma lows_error : Rabs (computed lows - over (2 ^ v) (fun i => total (rho i)))
  <= (growth f64_prec (m + v) - 1) * over (2 ^ v) (fun i => magnitude (rho i)).
Proof.
  assert (F : leaves format64 lows).
  { apply leaves_pairwise. intros i Hi. apply leaves_chain_from; [apply generic_format_0 |].
    now apply rho_format. }
  assert (D : (depth lows <= m + v)%nat).
  { apply depth_pairwise. intros i Hi. unfold chain. rewrite depth_chain_from. simpl. auto. }
  assert (E := sum_error f64_prec f64_emin lows F).
  assert (X : exact lows = over (2 ^ v) (fun i => total (rho i))).
  { unfold lows. rewrite exact_pairwise. apply over_ext. intros. unfold chain.
    rewrite exact_chain_from. simpl. lra. }
  assert (S : size lows = over (2 ^ v) (fun i => magnitude (rho i))).
  { unfold lows. rewrite size_pairwise. apply over_ext. intros. unfold chain.
    rewrite size_chain_from. simpl. rewrite Rabs_R0. lra. }
  rewrite X, S in E. apply Rle_trans with (1 := E). apply Rmult_le_compat_r.
  - rewrite <- S. apply size_ge_0.
  - generalize (growth_le f64_prec _ _ D). lra.
Qed.

Notation w := (bpow radix2 (c - 53)).  (* the most that a rest may be *)
Notation unit := (bpow radix2 (c + anchored_exponent)).

Lemma unit_is : unit = u f64_prec * w.
Proof. unfold u, f64_prec, anchored_exponent. rewrite <- bpow_plus. f_equal. lia. Qed.

Lemma growth_small : (Z.of_nat (m + v) <= 2 ^ 18)%Z ->
  growth f64_prec (m + v) - 1 <= INR (m + v) * u f64_prec * (1 + / 1048576).
Proof.
  intros H. assert (B := growth_bound f64_prec (m + v)). assert (G := growth_ge_1 f64_prec (m + v)).
  assert (K : INR (m + v) <= 262144).
  { rewrite INR_IZR_INZ. now apply (IZR_le _ 262144). }
  assert (K0 := pos_INR (m + v)).
  change (u f64_prec) with (/ 9007199254740992) in *.
  set (y := INR (m + v) * / 9007199254740992) in *.
  assert (Y : 0 <= y <= / 4194304) by (unfold y; lra).
  set (g := growth f64_prec (m + v)) in *.
  assert (g <= 1 + y * (1 + / 1048576)); [| lra].
  apply Rnot_lt_le. intros N.
  assert ((1 + y * (1 + / 1048576)) * (1 - y) < g * (1 - y)) by (apply Rmult_lt_compat_r; lra).
  nra.
Qed.

(** [low] may hold a little more than n + 1 rests, and its terms may be wrong by a little more than
    n + 1 units together: the bound that C states holds. *)
Theorem anchored_low (exact_rests : R) :
  (Z.of_nat (m + v) <= 2 ^ 18)%Z ->
  over (2 ^ v) (fun i => magnitude (rho i)) <= (INR n + 1) * (1 + / 1048576) * w ->
  Rabs (over (2 ^ v) (fun i => total (rho i)) - exact_rests)
    <= (INR n + 1) * (1 + / 1048576) * unit ->
  Rabs (computed lows - exact_rests)
  <= unit * ((INR n + 1) * (INR m + INR anchored_rests + INR anchored_levels * INR v)).
Proof.
  intros Hm S T. assert (E := lows_error). assert (G := growth_small Hm).
  rewrite unit_is in *.
  replace (computed lows - exact_rests)
    with ((computed lows - over (2 ^ v) (fun i => total (rho i)))
          + (over (2 ^ v) (fun i => total (rho i)) - exact_rests)) by ring.
  apply Rle_trans with (1 := Rabs_triang _ _).
  assert (W : 0 < w) by apply bpow_gt_0. assert (U := @u_pos f64_prec).
  assert (N := pos_INR n). assert (V := pos_INR v). assert (M := pos_INR m).
  assert (K : INR m + INR v <= 262144).
  { rewrite <- plus_INR, INR_IZR_INZ. now apply (IZR_le _ 262144). }
  rewrite plus_INR in G.
  set (A := over (2 ^ v) (fun i => magnitude (rho i))) in *.
  assert (A0 : 0 <= A).
  { apply over_ge_0. intros i _. induction (rho i); simpl; [lra |].
    generalize (Rabs_pos a). lra. }
  set (p := 1 + / 1048576) in *. assert (P : p = 1 + / 1048576) by reflexivity. clearbody p.
  set (a := INR n + 1) in *. assert (1 <= a) by (unfold a; lra). clearbody a.
  set (k := INR m + INR v) in *.
  assert (Q : 0 <= a * p * w) by (repeat apply Rmult_le_pos; lra).
  assert (E2 : (growth f64_prec (m + v) - 1) * A <= k * u f64_prec * p * (a * p * w)).
  { apply Rle_trans with (k * u f64_prec * p * A).
    - apply Rmult_le_compat_r; [exact A0 | exact G].
    - apply Rmult_le_compat_l; [| exact S].
      repeat apply Rmult_le_pos; unfold k; lra. }
  apply Rle_trans with (u f64_prec * w * a * (k * p * p + p)).
  { apply Rle_trans with (k * u f64_prec * p * (a * p * w) + a * p * (u f64_prec * w)); [lra |].
    right. ring. }
  rewrite Rmult_assoc. apply Rmult_le_compat_l; [apply Rmult_le_pos; lra |].
  apply Rmult_le_compat_l; [lra |].
  unfold anchored_rests, anchored_levels. simpl (INR 4). simpl (INR 2). unfold k in *.
  rewrite P. nra.
Qed.

(** *** Rests that are exact: |x|, and squares that f64 holds *)
Hypothesis count : over (2 ^ v) (fun i => INR (length (q i))) <= INR n.

Lemma rests_size : computed highs < C ->
  over (2 ^ v) (fun i => magnitude (rests C (q i))) <= INR n * w.
Proof.
  intros H. destruct (anchored_high H) as [St _].
  apply Rle_trans with (over (2 ^ v) (fun i => w * INR (length (q i)))).
  - apply over_le. intros i Hi.
    rewrite Rmult_comm, <- (@rests_length f64_prec f64_emin (q i) C). apply magnitude_le.
    apply (lane_rests_bound c); [unfold f64_emin, f64_prec, anchor_least in *; lia | auto].
  - rewrite over_scale, Rmult_comm. apply Rmult_le_compat_r; [apply bpow_ge_0 | exact count].
Qed.

Lemma anchored_split : computed highs < C ->
  over (2 ^ v) (fun i => total (rests C (q i)))
  = over (2 ^ v) (fun i => total (q i)) - computed highs.
Proof.
  intros H. destruct (anchored_high H) as [_ ->].
  assert (E : over (2 ^ v) (fun i => total (rests C (q i)) + (final C (q i) - C))
              = over (2 ^ v) (fun i => total (q i))).
  { apply over_ext. intros i _. generalize (@lane_total f64_prec f64_emin (q i) C). lra. }
  rewrite over_plus in E. lra.
Qed.

Theorem anchored_exact_rests :
  (forall i, (i < 2 ^ v)%nat -> rho i = rests C (q i)) ->
  (Z.of_nat (m + v) <= 2 ^ 18)%Z -> computed highs < C ->
  Rabs (computed highs + computed lows - over (2 ^ v) (fun i => total (q i)))
  <= unit * ((INR n + 1) * (INR m + INR anchored_rests + INR anchored_levels * INR v)).
Proof.
  intros Same Hm H.
  replace (computed highs + computed lows - over (2 ^ v) (fun i => total (q i)))
    with (computed lows - (over (2 ^ v) (fun i => total (q i)) - computed highs)) by ring.
  rewrite <- (anchored_split H).
  assert (E : forall f : list R -> R,
    over (2 ^ v) (fun i => f (rho i)) = over (2 ^ v) (fun i => f (rests C (q i)))).
  { intros f. apply over_ext. intros i Hi. now rewrite Same. }
  assert (N := pos_INR n). assert (W : 0 < w) by apply bpow_gt_0.
  assert (U : 0 < unit) by apply bpow_gt_0.
  apply anchored_low; trivial; rewrite E.
  - apply Rle_trans with (1 := rests_size H). apply Rmult_le_compat_r; lra.
  - rewrite Rminus_diag_eq, Rabs_R0 by reflexivity. repeat apply Rmult_le_pos; lra.
Qed.

(** *** Squares of f64 with FMA: each rest is rounded once *)
Lemma rounded_rests : forall l, Forall (fun r => Rabs r <= w) l ->
  magnitude (map RN l) <= INR (length l) * w /\
  Rabs (total (map RN l) - total l) <= INR (length l) * unit.
Proof.
  unfold anchor_least in anchor.
  assert (F : format64 w).
  { apply generic_format_bpow. unfold FLT_exp, f64_prec, f64_emin. lia. }
  intros l H. induction H as [| r l Hr H IH].
  { simpl. rewrite Rminus_diag_eq, Rabs_R0 by reflexivity. lra. }
  change (length (r :: l)) with (S (length l)). rewrite S_INR. simpl map. simpl magnitude. simpl total.
  assert (A : Rabs (RN r) <= w).
  { apply Rabs_le_inv in Hr. apply Rabs_le. split.
    - apply RN_ge_format; [now apply format_opp | lra].
    - apply RN_le_format; [exact F | lra]. }
  assert (B : Rabs (RN r - r) <= unit).
  { replace (c + anchored_exponent)%Z with (c - 53 + 1 - f64_prec - 1)%Z
      by (unfold anchored_exponent, f64_prec; ring).
    replace (c - 53 + 1 - f64_prec - 1)%Z with (c - 53 - f64_prec)%Z by ring.
    apply Rle_trans with (bpow radix2 (c - 53 - f64_prec - 1)); [| apply bpow_le; lia].
    apply RN_error_below; [unfold f64_emin, f64_prec; lia | exact Hr]. }
  destruct IH as [IH1 IH2]. split; [lra |].
  replace (RN r + total (map RN l) - (r + total l))
    with ((RN r - r) + (total (map RN l) - total l)) by ring.
  apply Rle_trans with (1 := Rabs_triang _ _). lra.
Qed.

Theorem anchored_fma :
  (forall i, (i < 2 ^ v)%nat -> rho i = map RN (rests C (q i))) ->
  (Z.of_nat (m + v) <= 2 ^ 18)%Z -> computed highs < C ->
  Rabs (computed highs + computed lows - over (2 ^ v) (fun i => total (q i)))
  <= unit * ((INR n + 1) * (INR m + INR anchored_rests + INR anchored_levels * INR v)).
Proof.
  intros Same Hm H.
  replace (computed highs + computed lows - over (2 ^ v) (fun i => total (q i)))
    with (computed lows - (over (2 ^ v) (fun i => total (q i)) - computed highs)) by ring.
  rewrite <- (anchored_split H). destruct (anchored_high H) as [St _].
  assert (N := pos_INR n). assert (W : 0 < w) by apply bpow_gt_0.
  assert (U : 0 < unit) by apply bpow_gt_0.
  assert (B : forall i, (i < 2 ^ v)%nat ->
    magnitude (rho i) <= w * INR (length (q i)) /\
    Rabs (total (rho i) - total (rests C (q i))) <= unit * INR (length (q i))).
  { intros i Hi. rewrite (Same i Hi), <- (@rests_length f64_prec f64_emin (q i) C).
    destruct (rounded_rests (rests C (q i))) as [B1 B2]; [| split; lra].
    apply (lane_rests_bound c); [unfold f64_emin, f64_prec, anchor_least in *; lia | auto]. }
  apply anchored_low; trivial.
  - apply Rle_trans with (INR n * w).
    + apply Rle_trans with (over (2 ^ v) (fun i => w * INR (length (q i)))).
      * apply over_le. intros i Hi. now apply B.
      * rewrite over_scale, Rmult_comm. apply Rmult_le_compat_r; lra.
    + apply Rmult_le_compat_r; lra.
  - apply Rle_trans with (INR n * unit).
    + apply Rle_trans with (over (2 ^ v) (fun i => unit * INR (length (q i)))).
      * clear -B. induction (2 ^ v)%nat as [| k IH]; simpl.
        { rewrite Rminus_diag_eq, Rabs_R0 by reflexivity. lra. }
        destruct (B k ltac:(lia)) as [_ B2].
        assert (IH' := IH ltac:(intros; apply B; lia)).
        match goal with |- Rabs (?a + ?x - (?b + ?y)) <= _ =>
          replace (a + x - (b + y)) with ((a - b) + (x - y)) by ring end.
        apply Rle_trans with (1 := Rabs_triang _ _). lra.
      * rewrite over_scale, Rmult_comm. apply Rmult_le_compat_r; lra.
    + apply Rmult_le_compat_r; lra.
Qed.

(** *** Squares of f64 without FMA: x^2 = q + e, and the rest of q, exact, takes e along

    The parts e are what TwoProduct computes: at most 2^-53 of q, but for what underflows. *)
Definition p22 := 1 + / 4194304.

Lemma joined_rests : forall l e, Forall (fun r => Rabs r <= w) l -> length e = length l ->
  let r := map (fun p => RN (fst p + snd p)) (combine l e) in
  magnitude r <= (1 + u f64_prec) * (INR (length l) * w + magnitude e) + INR (length l) * eta f64_emin /\
  Rabs (total r - (total l + total e))
  <= u f64_prec * (INR (length l) * w + magnitude e) + INR (length l) * eta f64_emin.
Proof.
  intros l e H. revert e. induction H as [| r l Hr H IH]; intros e L.
  { destruct e; [| discriminate]. simpl. replace (0 - (0 + 0)) with 0 by ring. rewrite Rabs_R0. lra. }
  destruct e as [| b e]; [discriminate |]. simpl in L. specialize (IH e ltac:(lia)).
  simpl in IH. destruct IH as [IH1 IH2].
  change (length (r :: l)) with (S (length l)). rewrite S_INR. simpl.
  assert (Z : Rabs (r + b) <= w + Rabs b) by (apply Rle_trans with (1 := Rabs_triang _ _); lra).
  assert (E := @RN_error f64_prec f64_emin _ (r + b)). assert (U := @u_pos f64_prec).
  assert (E2 : Rabs (RN (r + b) - (r + b)) <= u f64_prec * (w + Rabs b) + eta f64_emin).
  { apply Rle_trans with (1 := E). apply Rplus_le_compat_r. apply Rmult_le_compat_l; lra. }
  assert (A : Rabs (RN (r + b)) <= (1 + u f64_prec) * (w + Rabs b) + eta f64_emin).
  { replace (RN (r + b)) with ((RN (r + b) - (r + b)) + (r + b)) by ring.
    apply Rle_trans with (1 := Rabs_triang _ _). lra. }
  split; [lra |].
  match goal with |- Rabs (?a + ?x - (r + ?y + (b + ?z))) <= _ =>
    replace (a + x - (r + y + (b + z))) with ((a - (r + b)) + (x - (y + z))) by ring end.
  apply Rle_trans with (1 := Rabs_triang _ _). lra.
Qed.

Theorem anchored_no_fma (e : nat -> list R) (squares : R) :
  (forall i, (i < 2 ^ v)%nat -> length (e i) = length (q i)) ->
  (forall i, (i < 2 ^ v)%nat ->
     rho i = map (fun p => RN (fst p + snd p)) (combine (rests C (q i)) (e i))) ->
  over (2 ^ v) (fun i => magnitude (e i)) <= p22 * w ->
  Rabs (over (2 ^ v) (fun i => total (q i)) + over (2 ^ v) (fun i => total (e i)) - squares)
    <= INR n * (unit * / 4194304) ->
  (Z.of_nat (m + v) <= 2 ^ 18)%Z -> computed highs < C ->
  Rabs (computed highs + computed lows - squares)
  <= unit * ((INR n + 1) * (INR m + INR anchored_rests + INR anchored_levels * INR v)).
Proof.
  intros Len Same Parts Under Hm H.
  replace (computed highs + computed lows - squares)
    with (computed lows - (squares - computed highs)) by ring.
  assert (Split := anchored_split H). destruct (anchored_high H) as [St _].
  assert (N := pos_INR n). assert (W : 0 < w) by apply bpow_gt_0.
  assert (UU : 0 < unit) by apply bpow_gt_0. assert (U := @u_pos f64_prec).
  assert (Eta : eta f64_emin <= unit * / 4194304).
  { unfold eta. change (/ 4194304) with (bpow radix2 (-22)). rewrite <- bpow_plus. apply bpow_le.
    unfold anchored_exponent, f64_emin, anchor_least in *. lia. }
  assert (Eta0 := @eta_pos f64_emin).
  assert (Uw := unit_is).
  assert (U2 : u f64_prec <= / 4194304).
  { change (/ 4194304) with (bpow radix2 (-22)). apply bpow_le. unfold f64_prec. lia. }
  assert (B : forall i, (i < 2 ^ v)%nat ->
    magnitude (rho i) <= ((1 + u f64_prec) * w + eta f64_emin) * INR (length (q i))
                         + (1 + u f64_prec) * magnitude (e i) /\
    Rabs (total (rho i) - (total (rests C (q i)) + total (e i)))
    <= (u f64_prec * w + eta f64_emin) * INR (length (q i)) + u f64_prec * magnitude (e i)).
  { intros i Hi. rewrite (Same i Hi).
    assert (RL := @rests_length f64_prec f64_emin (q i) C).
    destruct (joined_rests (rests C (q i)) (e i)) as [B1 B2].
    - apply (lane_rests_bound c); [unfold f64_emin, f64_prec, anchor_least in *; lia | auto].
    - rewrite Len by exact Hi. symmetry. exact RL.
    - rewrite RL in B1, B2. split; lra. }
  set (Q := over (2 ^ v) (fun i => INR (length (q i)))) in *.
  set (P := over (2 ^ v) (fun i => magnitude (e i))) in *.
  assert (Q0 : 0 <= Q) by (apply over_ge_0; intros; apply pos_INR).
  assert (P0 : 0 <= P).
  { apply over_ge_0. intros i _. induction (e i); simpl; [lra |]. generalize (Rabs_pos a). lra. }
  assert (S : over (2 ^ v) (fun i => magnitude (rho i))
    <= ((1 + u f64_prec) * w + eta f64_emin) * Q + (1 + u f64_prec) * P).
  { unfold Q, P. rewrite <- !over_scale, <- over_plus. apply over_le. intros i Hi. now apply B. }
  assert (T : Rabs (over (2 ^ v) (fun i => total (rho i))
                    - (over (2 ^ v) (fun i => total (rests C (q i))) + over (2 ^ v) (fun i => total (e i))))
    <= (u f64_prec * w + eta f64_emin) * Q + u f64_prec * P).
  { unfold Q, P. clear -B. induction (2 ^ v)%nat as [| k IH]; simpl.
    { replace (0 - (0 + 0)) with 0 by ring. rewrite Rabs_R0. lra. }
    destruct (B k ltac:(lia)) as [_ B2]. assert (IH' := IH ltac:(intros; apply B; lia)).
    match goal with |- Rabs (?a + ?x - (?b + ?y + (?d + ?z))) <= _ =>
      replace (a + x - (b + y + (d + z))) with ((a - (b + d)) + (x - (y + z))) by ring end.
    apply Rle_trans with (1 := Rabs_triang _ _). lra. }
  assert (Eta2 : eta f64_emin <= w * / 4194304).
  { apply Rle_trans with (1 := Eta). apply Rmult_le_compat_r; [lra |]. rewrite Uw. nra. }
  unfold p22 in Parts.
  apply anchored_low; trivial.
  - apply Rle_trans with (1 := S).
    apply Rle_trans with (((1 + / 4194304) * w + w * / 4194304) * INR n + (1 + / 4194304) * ((1 + / 4194304) * w)).
    + apply Rplus_le_compat.
      * apply Rmult_le_compat; trivial; nra.
      * apply Rmult_le_compat; lra.
    + nra.
  - replace (over (2 ^ v) (fun i => total (rho i)) - (squares - computed highs))
      with ((over (2 ^ v) (fun i => total (rho i))
             - (over (2 ^ v) (fun i => total (rests C (q i))) + over (2 ^ v) (fun i => total (e i))))
            + (over (2 ^ v) (fun i => total (q i)) + over (2 ^ v) (fun i => total (e i)) - squares))
      by (rewrite Split; ring).
    apply Rle_trans with (1 := Rabs_triang _ _).
    apply Rle_trans with ((unit + unit * / 4194304) * INR n + unit * (1 + / 4194304)
                          + INR n * (unit * / 4194304)).
    + apply Rplus_le_compat; [| exact Under]. apply Rle_trans with (1 := T).
      rewrite <- Uw. apply Rplus_le_compat.
      * apply Rmult_le_compat; trivial; lra.
      * apply Rle_trans with (u f64_prec * ((1 + / 4194304) * w)).
        { apply Rmult_le_compat_l; lra. }
        right. rewrite Uw. ring.
    + nra.
Qed.

(** The parts are small together, for the q are at most C and their rests. *)
Theorem parts_are_small (e : nat -> list R) : computed highs < C ->
  (Z.of_nat n <= 2 ^ 20)%Z ->
  (forall i, (i < 2 ^ v)%nat -> magnitude (e i)
     <= / 9007199254740992 * (1 + / 1073741824) * total (q i) + INR (length (q i)) * (unit * / 4194304)) ->
  over (2 ^ v) (fun i => magnitude (e i)) <= p22 * w.
Proof.
  intros H Hn He.
  assert (Hw : w = / 9007199254740992 * C).
  { change (/ 9007199254740992) with (bpow radix2 (-53)). rewrite <- bpow_plus. f_equal. lia. }
  assert (Uw : unit = / 9007199254740992 * w) by apply unit_is.
  assert (N : INR n <= 1048576) by (rewrite INR_IZR_INZ; now apply (IZR_le _ 1048576)).
  assert (N0 := pos_INR n). assert (C0 : 0 < C) by apply bpow_gt_0.
  assert (Split := anchored_split H). assert (Rs := rests_size H).
  assert (Q : over (2 ^ v) (fun i => total (q i)) <= C + INR n * w).
  { assert (over (2 ^ v) (fun i => total (rests C (q i)))
            <= over (2 ^ v) (fun i => magnitude (rests C (q i)))); [| lra].
    apply over_le. intros i _. induction (rests C (q i)); simpl; [lra |].
    generalize (Rle_abs a). lra. }
  apply Rle_trans with (over (2 ^ v) (fun i => / 9007199254740992 * (1 + / 1073741824) * total (q i)
                                               + (unit * / 4194304) * INR (length (q i)))).
  { apply over_le. intros i Hi. generalize (He i Hi). lra. }
  rewrite over_plus, !over_scale. unfold p22.
  set (L := over (2 ^ v) (fun i => INR (length (q i)))) in *.
  assert (L <= 1048576) by lra.
  assert (X : unit * / 4194304 * L <= unit).
  { assert (0 < unit) by (apply bpow_gt_0). nra. }
  assert (Y : INR n * w <= 1048576 * w) by (apply Rmult_le_compat_r; [apply bpow_ge_0 | exact N]).
  rewrite Uw, Hw in *. lra.
Qed.

End Anchored.
