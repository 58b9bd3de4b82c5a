/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The sum of squares of a vector that is shared between ranks: the same bits for any number of them.
 */
#include "fastreg.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 1000003 };

/* States are exact, so the order in which MPI adds them does not matter. */
static void add_states(void *from, void *to, int *count, MPI_Datatype *type)
{
    (void)type;
    for (int i = 0; i < *count; ++i)
        if (fastreg_state_add((fastreg_state *)to + i, (const fastreg_state *)from + i) !=
            FASTREG_OK)
            MPI_Abort(MPI_COMM_WORLD, 1);
}

int main(int argc, char **argv)
{
    static double x[N];
    int rank, ranks;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    MPI_Datatype type;
    MPI_Op add;
    MPI_Type_contiguous(sizeof(fastreg_state), MPI_BYTE, &type);
    MPI_Type_commit(&type);
    MPI_Op_create(add_states, 1, &add);
    const ptrdiff_t first = (ptrdiff_t)N * rank / ranks,
                    n = (ptrdiff_t)N * (rank + 1) / ranks - first;
    for (ptrdiff_t i = 0; i < n; ++i)
        x[i] = 1.0 / (double)(first + i + 1);
    const fastreg_array a = {.data = x, .shape = &n, .ndim = 1, .dtype = FASTREG_F64};
    fastreg_state mine, all;
    const double weight = 1.0;
    memset(&mine, 0, sizeof mine);
    double value = 0.0;
    if (fastreg_state_fill(&mine, &a, 1, NULL) != FASTREG_OK)
        MPI_Abort(MPI_COMM_WORLD, 1);
    MPI_Allreduce(&mine, &all, 1, type, add, MPI_COMM_WORLD);
    if (fastreg_state_value(&all, NULL, &weight, 1, FASTREG_F64, &value) != FASTREG_OK)
        MPI_Abort(MPI_COMM_WORLD, 1);
    if (rank == 0) {
        const ptrdiff_t whole = N;
        fastreg_array b = {.data = x, .shape = &whole, .ndim = 1, .dtype = FASTREG_F64, .l2 = 1.0};
        double wanted = 0.0;
        for (ptrdiff_t i = 0; i < whole; ++i)
            x[i] = 1.0 / (double)(i + 1);
        if (fastreg_value(&b, 1, FASTREG_F64, NULL, &wanted) != FASTREG_OK || value != wanted)
            MPI_Abort(MPI_COMM_WORLD, 1);
        printf("%a\n", value);
    }
    MPI_Finalize();
    return 0;
}
