#!/usr/bin/env Rscript
# The statistics of vptest's contrasts in R, with its own functions where it has them:
#
#   analysis.R FILE [GROUPS-TO-COMPARE [METRICS]]     FILE as benches/peers/analysis.py writes it
#
# Prints the number of contrasts, sums, and seconds since R's start. Base R has no Brunner-Munzel test and no BCa interval (package
# boot computes each resample in a call): both are written here over vectors. Needs r-base-core alone.
started <- proc.time()[["elapsed"]]
set.seed(6)
resamples <- 10000
deals <- 9999

brunner_munzel <- function(x, y) {
    n <- length(x); m <- length(y)
    all <- rank(c(x, y)); rx <- all[1:n]; ry <- all[-(1:n)]
    vx <- sum((rx - rank(x) - mean(rx) + (n + 1) / 2)^2) / (n - 1)
    vy <- sum((ry - rank(y) - mean(ry) + (m + 1) / 2)^2) / (m - 1)
    statistic <- n * m * (mean(ry) - mean(rx)) / (n + m) / sqrt(n * vx + m * vy)
    df <- (n * vx + m * vy)^2 / ((n * vx)^2 / (n - 1) + (m * vy)^2 / (m - 1))
    2 * pt(-abs(statistic), df)
}

means_of_resamples <- function(x) colMeans(matrix(sample(x, resamples * length(x), replace = TRUE), length(x)))

bca_width <- function(x, y) {
    resampled <- means_of_resamples(x) - means_of_resamples(y)
    bias <- qnorm(mean(resampled < mean(x) - mean(y)))
    left <- function(v) { m <- (sum(v) - v) / (length(v) - 1); mean(m) - m }
    parts <- list(left(x), -left(y))
    third <- sum(sapply(parts, function(p) sum(p^3) / length(p)^3))
    second <- sum(sapply(parts, function(p) sum(p^2) / length(p)^2))
    a <- third / (6 * second^1.5)
    share <- function(z) pnorm(bias + (bias + z) / (1 - a * (bias + z)))
    diff(quantile(resampled, share(qnorm(c(0.025, 0.975))), names = FALSE))
}

permutation <- function(x, y) {
    pooled <- c(x, y); n <- length(x); m <- length(y)
    first <- replicate(deals, sum(pooled[sample.int(n + m, n)]))
    difference <- first / n - (sum(pooled) - first) / m
    observed <- mean(x) - mean(y)
    min(1, 2 * min(sum(difference <= observed) + 1, sum(difference >= observed) + 1) / (deals + 1))
}

compare <- function(x, y) {
    differences <- outer(x, y, "-")
    stopifnot(abs(mean(sign(differences))) <= 1)
    c(welch = t.test(x, y)$p.value,
      mann_whitney = wilcox.test(x, y, exact = FALSE)$p.value,
      brunner_munzel = brunner_munzel(x, y),
      kolmogorov_smirnov = ks.test(x, y, exact = TRUE)$p.value,
      bca_width = bca_width(x, y),
      permutation = permutation(x, y),
      shift = median(differences))
}

arguments <- commandArgs(trailingOnly = TRUE)
file <- file(arguments[1], "rb")
shape <- readBin(file, "double", 3, endian = "little")
values <- array(readBin(file, "double", prod(shape), endian = "little"), rev(shape)) # iteration, group, metric
close(file)
groups <- if (length(arguments) > 1) as.integer(arguments[2]) else shape[2] - 1
metrics <- if (length(arguments) > 2) as.integer(arguments[3]) else shape[1]
results <- sapply(seq_len(groups), function(g) sapply(seq_len(metrics), function(k) compare(values[, g + 1, k], values[, 1, k])),
                  simplify = "array")
cat("contrasts", groups * metrics, "\n")
for (name in dimnames(results)[[1]]) cat(name, sprintf("%.6f", sum(results[name, , ])), "\n")
cat("holm", sprintf("%.6f", sum(p.adjust(results["welch", , ], "holm"))), "bh", sprintf("%.6f", sum(p.adjust(results["welch", , ], "BH"))), "\n")
cat("seconds", sprintf("%.3f", proc.time()[["elapsed"]] - started), "\n")
