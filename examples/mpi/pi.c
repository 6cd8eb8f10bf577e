/* Pi by the midpoint rule, a slice for each rank: wrong in every digit if a rank is missing. */
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    const long steps = 20000000;
    char host[MPI_MAX_PROCESSOR_NAME];
    int rank, size, length;
    double sum = 0, pi = 0;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Get_processor_name(host, &length);
    printf("rank %d of %d on %s\n", rank, size, host);
    for (long i = rank; i < steps; i += size) {
        double x = (i + 0.5) / steps;
        sum += 4 / (1 + x * x) / steps;
    }
    MPI_Reduce(&sum, &pi, 1, MPI_DOUBLE, MPI_SUM, 0, MPI_COMM_WORLD);
    MPI_Barrier(MPI_COMM_WORLD);
    if (rank == 0) {
        double error = fabs(pi - M_PI);
        printf("pi %.12f, error %.1e, %d ranks\n", pi, error, size);
        if (error > 1e-9)
            MPI_Abort(MPI_COMM_WORLD, 2);
    }
    MPI_Finalize();
    return EXIT_SUCCESS;
}
